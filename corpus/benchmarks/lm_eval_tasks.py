"""Benchmarks as tasks that lm-eval runs offline.

    Question … of <benchmarks>/<benchmark>     ──▶     tasks/<benchmark>/law/dev.parquet
                                                                   /law/val.parquet
                                                                   /law.yaml

A generated task file includes lm-eval's own (its prompts stay where they are) and changes only
where the rows come from. Parquet, because a CSV reader would turn the option "1" into a number.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from common.errors import ConfigError
from common.files import hash_of
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
        data_files = {}
        for split, questions in splits.items():
            if questions:
                path = folder / subject / f"{split}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(_table(recipe, subject, questions), path)
                data_files[split] = str(path.resolve())
        task = _task(benchmark, subject, num_fewshot) | {
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": data_files},
        }
        text = yaml.safe_dump(task | recipe.override, allow_unicode=True, sort_keys=False)
        (folder / f"{subject}.yaml").write_text(text, encoding="utf-8")
        names[recipe.task_name.format(subject=subject)] = subject
    return names


def about_task(
    benchmark: Benchmark, subject: str, *, num_fewshot: int, limit: int | None
) -> dict[str, Any]:
    """JSON values that change when what lm-eval asks of a subject does.

    lm-eval's version, its task files and their code, what is laid over them, the questions that
    are asked and those that may be shown as examples.
    """
    recipe = benchmark.recipe
    splits = benchmark.subjects[subject]
    task = _task(benchmark, subject, num_fewshot) | recipe.override
    included = list(_included(Path(task["include"])))
    code = sorted({path for file in included for path in file.parent.glob("*.py")})
    questions = splits[recipe.scored_split][:limit]
    examples = splits[recipe.fewshot_split] if num_fewshot else []
    return {
        "lm_eval": metadata.version("lm_eval"),
        "version": _version(included, recipe.override),
        "task": task | {"include": [path.name for path in included]},
        "task_files": hash_of([path.read_text(encoding="utf-8") for path in [*included, *code]]),
        "questions": hash_of([dataclasses.asdict(question) for question in questions]),
        "examples": hash_of([dataclasses.asdict(question) for question in examples]),
        "layout": [recipe.layout, *recipe.columns],
        "splits": [recipe.fewshot_split, recipe.scored_split],
        "subject": subject,
    }


def num_prompt_characters(
    benchmark: Benchmark, subject: str, *, num_fewshot: int, limit: int | None
) -> int:
    """Characters of a subject's questions with options, and of its worked examples once."""
    splits = benchmark.subjects[subject]
    asked = splits[benchmark.recipe.scored_split][:limit]
    shown = splits[benchmark.recipe.fewshot_split][:num_fewshot]
    return sum(len(q.text) + sum(map(len, q.options)) for q in (*asked, *shown))


def _included(file: Path) -> Iterator[Path]:
    """A task file, and those that it includes."""
    yield file
    # lm-eval's files name functions with a tag of its own; only `include` matters here.
    match = re.search(r"""^["']?include["']?:\s*["']?([^\s"']+)""", file.read_text("utf-8"), re.M)
    if match is not None:
        yield from _included(file.parent / match[1])


def _version(files: Sequence[Path], override: Mapping[str, Any]) -> str:
    """lm-eval's version of a task; "" where its files state none."""
    if "metadata" in override:
        return str(override["metadata"].get("version", ""))
    found = (re.search(r"^\s+version:\s*(\S+)", f.read_text("utf-8"), re.M) for f in files)
    return next((match[1] for match in found if match is not None), "")


def _task(benchmark: Benchmark, subject: str, num_fewshot: int) -> dict[str, Any]:
    """A generated task file but for the place of the rows: what it includes, and its examples.

    It includes lm-eval's file for the subject, or the one that all of them share.
    """
    recipe = benchmark.recipe
    has_examples = bool(benchmark.subjects[subject][recipe.fewshot_split])
    shown = {
        "num_fewshot": num_fewshot,
        # Without worked examples lm-eval would still ask for their split.
        "fewshot_split": recipe.fewshot_split if has_examples else None,
    }
    own = lm_eval_tasks() / recipe.task.format(subject=subject)
    if own.is_file():
        return {"include": str(own), **shown}
    return {
        "include": str(lm_eval_tasks() / recipe.base_task),
        "task": recipe.task_name.format(subject=subject),
        "description": recipe.other_description.format(subject=subject.replace("_", " ")),
        **shown,
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
