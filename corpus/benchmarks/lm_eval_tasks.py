"""Benchmarks as tasks that lm-eval runs offline.

    Question … of <benchmarks>/<benchmark>     ──▶     tasks/<benchmark>/law/dev.parquet
                                                                   /law/val.parquet
                                                                   /law.yaml

A generated task file includes lm-eval's own (its prompts stay where they are) and changes only
where the rows come from. Parquet, because a CSV reader would turn the option "1" into a number.
"""

import importlib.util
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from common.errors import ConfigError
from corpus.benchmarks.questions import (
    LETTERS,
    Benchmark,
    BenchmarkRecipe,
    Question,
    check_examples,
)


def lm_eval_tasks() -> Path:
    """Find lm-eval's folder of task files without importing it. Raises ConfigError."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("lm-eval is not installed: run `make install` to install the lock file")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def num_known_subjects(recipe: BenchmarkRecipe) -> int:
    """Number of subjects that lm-eval knows of a benchmark: all it has."""
    pattern = PurePosixPath(recipe.task.replace("{subject}", "*"))
    files = (lm_eval_tasks() / pattern.parent).glob(pattern.name)
    return sum(not path.name.startswith("_") for path in files)


def write_tasks(benchmark: Benchmark, folder: Path, *, num_fewshot: int) -> dict[str, str]:
    """Write parquet files and task files that lm-eval reads. Returns task name -> subject.

    Raises DataError when a subject has fewer worked examples than `num_fewshot`.
    """
    recipe = benchmark.recipe
    names: dict[str, str] = {}
    check_examples(benchmark, num_fewshot)
    for subject, splits in benchmark.subjects.items():
        examples = len(splits[recipe.fewshot_split])
        data_files = {}
        for split, questions in splits.items():
            if questions:
                path = folder / subject / f"{split}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(_table(recipe, subject, questions), path)
                data_files[split] = str(path.resolve())
        task = _task(recipe, subject) | {
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": data_files},
            "num_fewshot": num_fewshot,
            # Without worked examples lm-eval would still ask for their split.
            "fewshot_split": recipe.fewshot_split if examples else None,
        }
        text = yaml.safe_dump(task | recipe.override, allow_unicode=True, sort_keys=False)
        (folder / f"{subject}.yaml").write_text(text, encoding="utf-8")
        names[recipe.task_name.format(subject=subject)] = subject
    return names


def _task(recipe: BenchmarkRecipe, subject: str) -> dict[str, Any]:
    """Base of a generated task file: lm-eval's for the subject, or its common one."""
    own = lm_eval_tasks() / recipe.task.format(subject=subject)
    if own.is_file():
        return {"include": str(own)}
    return {
        "include": str(lm_eval_tasks() / recipe.base_task),
        "task": recipe.task_name.format(subject=subject),
        "description": recipe.other_description.format(subject=subject.replace("_", " ")),
    }


def _table(recipe: BenchmarkRecipe, subject: str, questions: list[Question]) -> pa.Table:
    if recipe.layout == "choices":
        return pa.table(
            {
                "question": [q.text for q in questions],
                "subject": [subject] * len(questions),
                "choices": pa.array([list(q.options) for q in questions], pa.list_(pa.string())),
                "answer": pa.array([LETTERS.index(q.answer) for q in questions], pa.int64()),
            }
        )
    rows = [(q.text, *q.options, q.answer) for q in questions]
    return pa.table(
        {
            column: pa.array([row[i] for row in rows], pa.string())
            for i, column in enumerate(recipe.columns)
        }
    )
