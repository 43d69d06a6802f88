"""Benchmarks whose answers are written and not chosen: word problems, programs.

    test.jsonl ──read, check──▶ rows ──▶ lm-eval's own task, on a parquet file of these rows

lm-eval's task file gives prompt, worked examples, end of an answer, and score. Where its score runs
what the model wrote (HumanEval), its scoring code is left out and never imported: the task that is
written here only generates, and programs run in a sandbox (model/evaluate/sandbox.py).
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from common.errors import ConfigError, DataError
from common.files import hash_of
from common.names import Name, RelativePath
from common.paths import display
from common.recipes import load_recipe, read_yaml, recipe_path
from corpus.bad_rows import OnBadRow, refuse_bad_rows
from corpus.benchmarks.lm_eval_tasks import lm_eval_tasks
from corpus.benchmarks.questions import REMEDY, Files, PublishedQuestions
from corpus.formats.records import CANNOT_READ, EMPTY_LINE, Damaged, read_records
from corpus.json_items import exact_loads

UNPARSED = "[invalid]"
"""lm-eval's word for an answer in which its filter finds nothing."""

FENCE = "```"

ANSWER_TOKENS = 256
"""Tokens of an answer where lm-eval's task does not say how many."""


@dataclass(frozen=True, kw_only=True)
class OpenBenchmarkRecipe(PublishedQuestions):
    """A recipe data_recipes/evals/<name>.yaml with `kind: open`."""

    kind: Literal["open"]
    """Tells it from multiple choice (`BenchmarkRecipe`)."""
    files: tuple[str, ...]
    """Patterns of the files that are scored, below the location: JSON lines or parquet."""
    columns: tuple[str, ...]
    """Columns that lm-eval's task reads; each must hold a text."""
    question: str
    """Column with the question, which is also looked for in training texts."""
    answer: str
    """Column with the right answer, looked for beside it."""
    task: RelativePath
    """lm-eval's task file, below lm_eval/tasks."""
    chat_task: RelativePath | None = None
    """The one for chat models, where lm-eval has another."""
    filter: str = ""
    """lm-eval's filter whose score counts; others are shown beside it."""
    forms: Mapping[str, str] = field(default_factory=dict)
    """Column -> regular expression that its text must hold, without which no answer could score."""
    unique: str = ""
    """Column in which no two rows are alike; empty: there is none."""
    runs_code: bool = False
    """True if answers are programs, which are run to be scored."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Checksums that acquired files must have, by name."""


@dataclass(frozen=True, kw_only=True)
class OpenBenchmark:
    """A benchmark with its rows."""

    name: Name
    """Name of the recipe."""
    recipe: OpenBenchmarkRecipe
    """Its recipe."""
    rows: Sequence[Mapping[str, str]]
    """The columns of each sound row."""
    bad_rows: tuple[str, ...] = ()
    """File, line and defect of each row that is no question."""


def is_open(name: str) -> bool:
    """True for a benchmark whose answers are written. Raises ConfigError for an unknown one."""
    return read_yaml(recipe_path("evals", name)).get("kind") == "open"


def open_recipe(name: str) -> OpenBenchmarkRecipe:
    """The recipe of such a benchmark. Raises ConfigError."""
    return load_recipe(OpenBenchmarkRecipe, "evals", name)


def read_open(name: str, files: Files, *, on_bad_row: OnBadRow = "fail") -> OpenBenchmark:
    """Read all rows that are scored.

    Raises DataError where no file matches or one cannot be read, and for bad rows, unless those
    are skipped.
    """
    recipe = open_recipe(name)
    rows: list[Mapping[str, str]] = []
    bad: list[str] = []
    known: set[str] = set()
    for path in _matching(recipe, files, name):
        for record in read_records(path, exact_loads):
            value = record.value
            if isinstance(value, Damaged):
                if value.reason.startswith(CANNOT_READ):
                    raise DataError(f"{display(path)}: {value.reason}. Get the file again.")
                reason = "" if value.reason == EMPTY_LINE else value.reason
                bad += [f"{display(path)}, line {record.line}: {reason}"] if reason else []
            elif reason := _defect(value, recipe) or _given_before(value, recipe, known):
                bad.append(f"{display(path)}, line {record.line}: {reason}")
            else:
                rows.append({column: value[column] for column in recipe.columns})
    if on_bad_row == "fail":
        refuse_bad_rows(name, bad, REMEDY)
    if not rows:
        raise DataError(f"{name}: no row of {', '.join(recipe.files)} is a question")
    return OpenBenchmark(name=name, recipe=recipe, rows=rows, bad_rows=tuple(bad))


def _matching(recipe: OpenBenchmarkRecipe, files: Files, name: str) -> list[Path]:
    """The files that are scored. Raises DataError where there is none."""
    if isinstance(files, Path):
        files = [(path, path.relative_to(files).as_posix()) for path in sorted(files.rglob("*"))]
    # A single file is named by itself, below no folder.
    named = [(path, Path("/") / place) for path, place in files]
    found = [
        path for path, place in named if path.is_file() and any(map(place.match, recipe.files))
    ]
    if not found:
        raise DataError(
            f"the location of {name} holds no file like {' or '.join(recipe.files)}: give the "
            "folder of the test split"
        )
    return found


_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    type(None): "null",
}
"""JSON's words for Python's types; others are numbers."""


def _defect(row: Any, recipe: OpenBenchmarkRecipe) -> str:
    """Defect of a row in a few words; empty for a question."""
    if not isinstance(row, Mapping):
        return f"{_TYPES.get(type(row), 'a number')}, not an object"
    for column in recipe.columns:
        value = row.get(column)
        if column not in row:
            return f"{column} is absent"
        if not isinstance(value, str):
            return f"{column} is {_TYPES.get(type(value), 'a number')}, not a text"
        if not value.strip() or "\0" in value:
            return f"{column} is empty" if not value.strip() else f"{column} holds a NUL"
    for column, form in recipe.forms.items():
        if not re.search(form, row[column]):
            return f"{column} holds nothing like `{form}`, so no reply could be called right"
    return _unrunnable(row) if recipe.runs_code else ""


def _given_before(row: Mapping[str, str], recipe: OpenBenchmarkRecipe, known: set[str]) -> str:
    """Defect of a row whose unique column another one has; empty for the first."""
    name = row.get(recipe.unique, "")
    if not recipe.unique or name not in known:
        known.add(name)
        return ""
    return f"{recipe.unique} {name!r:.80} was given before"


def _unrunnable(row: Mapping[str, str]) -> str:
    """Defect of a program that even the right answer could not pass; it is parsed and not run."""
    program = f"{row['prompt']}{row['canonical_solution']}\n{row['test']}"
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"prompt, canonical_solution and test together are no Python program ({error})"
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if row["entry_point"] not in defined:
        return f"prompt and canonical_solution define no function {row['entry_point']!r:.80}"
    return ""


# ── lm-eval's tasks ──────────────────────────────────────────────────────────────────────────────


def check_open_task(name: str) -> None:
    """Raise ConfigError where lm-eval does not have the tasks of a benchmark."""
    recipe = open_recipe(name)
    for task in filter(None, (recipe.task, recipe.chat_task)):
        if not (lm_eval_tasks() / task).is_file():
            raise ConfigError(
                f"{recipe_path('evals', name).name}: lm-eval has no task file {task}; is another "
                "version of lm-eval installed than the lock file says?"
            )


def answer_tokens(name: str) -> int:
    """Tokens that an answer may take, as lm-eval's task says. Raises ConfigError."""
    recipe = open_recipe(name)
    files = {_task_file(recipe, chat=chat) for chat in (False, True)}
    settings = [_plain_task(file).get("generation_kwargs") or {} for file in files]
    return max(int(one.get("max_gen_toks", ANSWER_TOKENS)) for one in settings)


def write_open_task(benchmark: OpenBenchmark, folder: Path, *, chat: bool) -> str:
    """Write the rows and a task file that lm-eval reads. Returns the task's name."""
    recipe = benchmark.recipe
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "test.parquet"
    columns = {column: [row[column] for row in benchmark.rows] for column in recipe.columns}
    pq.write_table(pa.table(columns), rows)
    task = task_without_data(recipe, chat=chat) | {
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(rows.resolve())}},
    }
    text = yaml.safe_dump(task, allow_unicode=True, sort_keys=False)
    (folder / f"{benchmark.name}.yaml").write_text(text, encoding="utf-8")
    return recipe_name(recipe)


def task_without_data(recipe: OpenBenchmarkRecipe, *, chat: bool) -> dict[str, Any]:
    """lm-eval's task but for the place of its rows, and for scoring that runs programs."""
    name = recipe_name(recipe)
    file = _task_file(recipe, chat=chat)
    if not recipe.runs_code:
        return {"include": str(file), "task": name, "training_split": None}
    task = _plain_task(file)
    for key in ("metric_list", "filter_list", "unsafe_code", "tag"):
        task.pop(key, None)
    return task | {"task": name, "metric_list": [{"metric": "bypass"}]}


def recipe_name(recipe: OpenBenchmarkRecipe) -> str:
    """Name of the generated task: no task of lm-eval's own is taken for it."""
    return "steel_" + Path(recipe.task).stem.replace("-", "_")


def _task_file(recipe: OpenBenchmarkRecipe, *, chat: bool) -> Path:
    return lm_eval_tasks() / (recipe.chat_task if chat and recipe.chat_task else recipe.task)


class _PlainLoader(yaml.SafeLoader):
    """Reads lm-eval's task files; a function is its name, and is not imported."""


_PlainLoader.add_constructor("!function", lambda loader, node: str(node.value))


def _plain_task(file: Path) -> dict[str, Any]:
    """A task file with those that it includes; functions are their names."""
    # A subclass of SafeLoader: no Python object is made.
    data = yaml.load(file.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506
    assert isinstance(data, dict), file
    include = data.pop("include", None)
    return {**(_plain_task(file.parent / include) if include else {}), **data}


def about_open_task(
    benchmark: OpenBenchmark, rows: Sequence[Mapping[str, str]], *, chat: bool
) -> dict[str, Any]:
    """JSON values that change when what lm-eval asks in these rows does."""
    file = _task_file(benchmark.recipe, chat=chat)
    task = task_without_data(benchmark.recipe, chat=chat)
    return {
        "lm_eval": metadata.version("lm_eval"),
        "task": hash_of({**task, "include": Path(task.get("include", "")).name}),
        "task_files": hash_of(
            [path.read_text("utf-8") for path in sorted(file.parent.glob("*.yaml"))]
        ),
        "questions": hash_of([dict(row) for row in rows]),
    }


# ── programs ─────────────────────────────────────────────────────────────────────────────────────


def programs(
    benchmark: OpenBenchmark, answers: Sequence[Mapping[str, Any]], *, chat: bool
) -> Iterator[str]:
    """The program of each answer: its code behind the prompt, then the tests, as lm-eval has it.

    For chat models the answer ends where its code block does.
    """
    fenced = "instruct" in str(_plain_task(_task_file(benchmark.recipe, chat=chat))["filter_list"])
    for row, answer in zip(benchmark.rows, answers, strict=False):
        code = answer["text"].partition(FENCE)[0] if fenced else answer["text"]
        yield f"{row['prompt']}{code}\n{answer['target']}"
