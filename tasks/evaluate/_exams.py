"""Exam files in their native layout, turned into tasks that lm-eval runs offline.

    <exams>/<benchmark>/dev/law_dev.csv ─┐ read, checked     tasks/<benchmark>/law/dev.parquet
                       /val/law_val.csv ─┘ row by row   ──▶                   /law/val.parquet
                       /val.zip, data.tar (the same)                          /law.yaml

A generated task file includes lm-eval's own (its prompts stay where they are) and changes only
where the rows come from. Parquet, because a CSV reader would turn the option "1" into a number.
"""

import csv
import importlib.util
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from model.errors import ConfigError, DataError
from tasks._corpora import HubSource
from tasks._recipes import display

LETTERS = ("A", "B", "C", "D")
MAX_MEMBER_BYTES = 64 * 2**20
"""Of one CSV file inside an archive; the largest real one has 0.6 MB."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A recipe data_recipes/evals/<name>.yaml."""

    title: str
    """Name for people."""
    language: str
    """Language of the questions."""
    licence: str
    """Licence of the questions."""
    source: str
    """Page of the authors."""
    hub: HubSource
    """Where `acquire` fetches the files."""
    file: str
    """Path of a subject's file, with {split} and {subject}."""
    header: bool
    """Whether a file's first row names its columns."""
    columns: list[str]
    """Question, four options, answer: their names in the header row, or, without one, in order."""
    layout: Literal["letters", "choices"]
    """What lm-eval's prompt wants: the columns as they are, or choices and the answer's number."""
    fewshot_split: str
    """Split that the worked examples come from."""
    scored_split: str
    """Split that is scored."""
    task: str
    """lm-eval's file for a subject, below lm_eval/tasks."""
    base_task: str
    """lm-eval's file that its subjects share; a subject unknown to lm-eval is built on it."""
    task_name: str
    """lm-eval's name for the task of a subject."""
    other_description: str
    """First lines of the prompt of a subject unknown to lm-eval."""
    override: dict[str, Any]
    """Native lm-eval keys laid over every subject's task."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of an exam file."""

    text: str
    """The question."""
    options: tuple[str, ...]
    """Four options, exactly as in the file."""
    answer: str
    """The right one's letter."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A benchmark's subjects, read."""

    name: str
    """Name of the recipe."""
    recipe: Benchmark
    """What the recipe says."""
    subjects: dict[str, dict[str, list[Question]]]
    """subject -> split -> questions."""

    def num_questions(self, limit: int | None) -> int:
        """Questions that are scored, at most `limit` a subject."""
        sizes = (len(splits[self.recipe.scored_split]) for splits in self.subjects.values())
        return sum(min(size, limit) if limit else size for size in sizes)


def lm_eval_tasks() -> Path:
    """lm-eval's folder of task files, found without importing it. Raises ConfigError."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("lm-eval is not installed: run `make setup` to install the lock file")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def num_known_subjects(recipe: Benchmark) -> int:
    """How many subjects lm-eval knows of a benchmark: all it has."""
    pattern = PurePosixPath(recipe.task.replace("{subject}", "*"))
    files = (lm_eval_tasks() / pattern.parent).glob(pattern.name)
    return sum(not path.name.startswith("_") for path in files)


def read_exam(name: str, recipe: Benchmark, folder: Path) -> Exam:
    """Read every subject below `folder` that has questions to score.

    Raises DataError that names the file and the line when a row is malformed, or the folder when
    nothing is there.
    """
    if not folder.is_dir():
        raise DataError(
            f"{display(folder)} does not exist: the exams of {name} were not acquired; add {name} "
            "to the data sets of `acquire` with kind evals, or leave it out of `benchmarks`"
        )
    fewshot, scored = recipe.fewshot_split, recipe.scored_split
    subjects: dict[str, dict[str, list[Question]]] = {}
    for subject, split, where, text in _files(recipe, folder):
        splits = subjects.setdefault(subject, {})
        if split not in splits:  # a plain file wins over the same file in an archive
            splits[split] = list(_questions(recipe, where, text))
    found = {subject: splits for subject, splits in sorted(subjects.items()) if scored in splits}
    if not found:
        raise DataError(
            f"{display(folder)} holds no file like {recipe.file.format(split=scored, subject='*')}"
        )
    for subject, splits in found.items():
        if not splits[scored]:
            raise DataError(f"{display(folder)}: the {scored} split of {subject} has no question")
        splits.setdefault(fewshot, [])
    return Exam(name=name, recipe=recipe, subjects=found)


def _files(recipe: Benchmark, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(subject, split, place for messages, text) of each wanted file; plain files come first."""
    pattern = re.escape(recipe.file)
    pattern = pattern.replace(r"\{split\}", "(?P<split>[^/]+)", 1)
    pattern = pattern.replace(r"\{split\}", "(?P=split)")
    pattern = pattern.replace(r"\{subject\}", "(?P<subject>[^/.][^/]*)")
    wanted = re.compile(rf"(?:.*/)?{pattern}")
    splits = {recipe.fewshot_split, recipe.scored_split}

    def match(path: str) -> re.Match[str] | None:
        found = wanted.fullmatch(path)
        return found if found and found["split"] in splits else None

    for path in sorted(folder.rglob("*.csv")):
        if found := match(path.relative_to(folder).as_posix()):
            yield (
                found["subject"],
                found["split"],
                display(path),
                _text(path.read_bytes(), display(path)),
            )
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".zip", ".tar"):
            # An archive `val.zip` may hold its files with or without the folder `val/`.
            for member, content in _members(path):
                if found := match(member) or match(f"{path.stem}/{member}"):
                    where = f"{display(path)}:{member}"
                    yield found["subject"], found["split"], where, _text(content, where)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """CSV files in an archive, read into memory: nothing is unpacked to disk."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".csv"):
                        _check_size(path, info.filename, info.file_size)
                        yield info.filename, archive.read(info)
        else:
            with tarfile.open(path, "r:") as tar:
                for entry in tar:
                    if entry.isfile() and entry.name.endswith(".csv"):
                        _check_size(path, entry.name, entry.size)
                        file = tar.extractfile(entry)
                        assert file is not None
                        yield entry.name.removeprefix("./"), file.read()
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{display(path)} is damaged ({error}): remove it and acquire it again"
        ) from error


def _check_size(path: Path, member: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"{display(path)}:{member} has {size:,} bytes; no exam file is that large")


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}, line {line}: not UTF-8 ({error.reason})") from error


def _questions(recipe: Benchmark, where: str, text: str) -> Iterator[Question]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    places = list(range(len(recipe.columns)))
    width: int | None = None if recipe.header else len(recipe.columns)
    line = 1  # where the current row begins; a quoted field may hold line breaks
    try:
        for row in reader:
            begin, line = line, reader.line_num + 1
            if not row:
                continue
            if width is None:
                missing = [column for column in recipe.columns if column not in row]
                if missing:
                    raise DataError(
                        f"{where}, line {begin}: no column {', '.join(missing)}; "
                        f"the header row is {', '.join(row)}"
                    )
                width, places = len(row), [row.index(column) for column in recipe.columns]
                continue
            if len(row) != width:
                raise DataError(f"{where}, line {begin}: {len(row)} fields instead of {width}")
            question, *options, answer = (row[place] for place in places)
            if answer.strip() not in LETTERS:
                raise DataError(f"{where}, line {begin}: the answer is {answer!r}, not A to D")
            if not question.strip():
                raise DataError(f"{where}, line {begin}: the question is empty")
            yield Question(text=question, options=tuple(options), answer=answer.strip())
    except csv.Error as error:
        raise DataError(f"{where}, line {line}: not valid CSV ({error})") from error


def write_tasks(exam: Exam, folder: Path, *, num_fewshot: int) -> dict[str, str]:
    """Write parquet files and task files that lm-eval reads. Returns task name -> subject.

    Raises DataError when a subject has fewer worked examples than `num_fewshot`.
    """
    recipe = exam.recipe
    names: dict[str, str] = {}
    for subject, splits in exam.subjects.items():
        examples = len(splits[recipe.fewshot_split])
        if examples < num_fewshot:
            raise DataError(
                f"{exam.name}: {subject} has {examples} worked examples (split "
                f"{recipe.fewshot_split}) but num_fewshot is {num_fewshot}: lower num_fewshot"
            )
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


def _task(recipe: Benchmark, subject: str) -> dict[str, Any]:
    """What a generated task file builds on: lm-eval's for the subject, or its common one."""
    own = lm_eval_tasks() / recipe.task.format(subject=subject)
    if own.is_file():
        return {"include": str(own)}
    return {
        "include": str(lm_eval_tasks() / recipe.base_task),
        "task": recipe.task_name.format(subject=subject),
        "description": recipe.other_description.format(subject=subject.replace("_", " ")),
    }


def _table(recipe: Benchmark, subject: str, questions: list[Question]) -> pa.Table:
    if recipe.layout == "choices":
        return pa.table({
            "question": [q.text for q in questions],
            "subject": [subject] * len(questions),
            "choices": pa.array([list(q.options) for q in questions], pa.list_(pa.string())),
            "answer": pa.array([LETTERS.index(q.answer) for q in questions], pa.int64()),
        })  # fmt: skip
    rows = [(q.text, *q.options, q.answer) for q in questions]
    return pa.table({
        column: pa.array([row[i] for row in rows], pa.string())
        for i, column in enumerate(recipe.columns)
    })  # fmt: skip
