"""Benchmark files in their native layout, read and checked row by row.

<benchmarks>/<benchmark>/dev/law_dev.csv ─┐
                   /val/law_val.csv ─┼─▶ (subject, split) ─▶ Question …
                   /val.zip, data.tar ┘
"""

import csv
import io
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.errors import DataError
from common.names import Name, RelativePath
from common.paths import display
from corpus.recipes import HubSource

LETTERS = ("A", "B", "C", "D")
MAX_MEMBER_BYTES = 64 * 2**20
"""Largest size of one CSV file inside an archive; the largest real one has 0.6 MB."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecipe:
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
    """Files on the Hugging Face hub."""
    file: RelativePath
    """Path of a subject's file, with {split} and {subject}."""
    header: bool
    """If true, a file's first row names its columns."""
    columns: tuple[str, str, str, str, str, str]
    """Question, four options, answer, in this order, by their names in the header row, where
    further columns may stand; without a header row, a file has these six and no others."""
    layout: Literal["letters", "choices"]
    """Columns of lm-eval's prompt: as they are, or choices and the answer's number."""
    fewshot_split: Name
    """Split that the worked examples come from."""
    scored_split: Name
    """Split that is scored."""
    task: RelativePath
    """lm-eval's file for a subject, below lm_eval/tasks."""
    base_task: RelativePath
    """lm-eval's file that its subjects share; a subject unknown to lm-eval is built on it."""
    task_name: str
    """lm-eval's name for the task of a subject."""
    other_description: str
    """First lines of the prompt of a subject unknown to lm-eval."""
    override: dict[str, Any]
    """Native lm-eval keys laid over every subject's task."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Checksums that acquired files must have, by name."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of a benchmark file."""

    text: str
    """The question."""
    options: tuple[str, ...]
    """Four options, exactly as in the file."""
    answer: str
    """The right one's letter; empty where the authors keep it to themselves."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark with the questions of its subjects."""

    name: str
    """Name of the recipe."""
    recipe: BenchmarkRecipe
    """Its recipe."""
    subjects: dict[str, dict[str, list[Question]]]
    """subject -> split -> questions."""

    def num_questions(self, limit: int | None) -> int:
        """Number of questions that are scored, at most `limit` a subject."""
        sizes = (len(splits[self.recipe.scored_split]) for splits in self.subjects.values())
        return sum(min(size, limit) if limit else size for size in sizes)


def read_benchmark(name: str, recipe: BenchmarkRecipe, folder: Path) -> Benchmark:
    """Read every subject below `folder` that has questions to score.

    Raises DataError that names the file and the line when a row is malformed, or the folder when
    nothing is there.
    """
    if not folder.is_dir():
        raise DataError(
            f"{display(folder)} does not exist: the questions of {name} were not acquired; add "
            f"{name} to the data sets of `acquire` with kind evals, or leave it out of `benchmarks`"
        )
    fewshot, scored = recipe.fewshot_split, recipe.scored_split
    subjects: dict[str, dict[str, list[Question]]] = {}
    for subject, split, where, text in benchmark_files(recipe, folder, (fewshot, scored)):
        splits = subjects.setdefault(subject, {})
        if split not in splits:  # a plain file wins over the same file in an archive
            splits[split] = list(parse_questions(recipe, where, text))
    found = {subject: splits for subject, splits in sorted(subjects.items()) if scored in splits}
    if not found:
        raise DataError(
            f"{display(folder)} holds no file like {recipe.file.format(split=scored, subject='*')}"
        )
    for subject, splits in found.items():
        if not splits[scored]:
            raise DataError(f"{display(folder)}: the {scored} split of {subject} has no question")
        splits.setdefault(fewshot, [])
    return Benchmark(name=name, recipe=recipe, subjects=found)


def benchmark_files(
    recipe: BenchmarkRecipe, folder: Path, splits: Collection[str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield (subject, split, place for messages, text) of each file of `splits`; plain files first.

    Raises DataError for a damaged archive, or a file that is not UTF-8.
    """
    pattern = re.escape(recipe.file)
    pattern = pattern.replace(r"\{split\}", "(?P<split>[^/]+)", 1)
    pattern = pattern.replace(r"\{split\}", "(?P=split)")
    pattern = pattern.replace(r"\{subject\}", "(?P<subject>[^/.][^/]*)")
    wanted = re.compile(rf"(?:.*/)?{pattern}")

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
    """Read the CSV files of an archive into memory: nothing is unpacked to disk."""
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
        raise DataError(
            f"{display(path)}:{member} has {size:,} bytes; no benchmark file is that large"
        )


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}, line {line}: not UTF-8 ({error.reason})") from error


def parse_questions(
    recipe: BenchmarkRecipe, where: str, text: str, *, answers: bool = True
) -> Iterator[Question]:
    """Parse the questions of a file. Raises DataError that names the line of a malformed row.

    Args:
        recipe: of the benchmark.
        where: the file, for messages.
        text: its content.
        answers: False for a split whose answers the authors keep to themselves: then the column
            may be absent, and every answer is empty.
    """
    columns = recipe.columns if answers else recipe.columns[:-1]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    places = list(range(len(columns)))
    width: int | None = None if recipe.header else len(recipe.columns)
    line = 1  # where the current row begins; a quoted field may hold line breaks
    try:
        for row in reader:
            begin, line = line, reader.line_num + 1
            if not row:
                continue
            if width is None:
                missing = [column for column in columns if column not in row]
                if missing:
                    raise DataError(
                        f"{where}, line {begin}: no column {', '.join(missing)}; "
                        f"the header row is {', '.join(row)}"
                    )
                width, places = len(row), [row.index(column) for column in columns]
                continue
            if len(row) != width:
                raise DataError(f"{where}, line {begin}: {len(row)} fields instead of {width}")
            question, *options = (row[place] for place in places)
            answer = options.pop() if answers else ""
            if answers and answer.strip() not in LETTERS:
                raise DataError(f"{where}, line {begin}: the answer is {answer!r}, not A to D")
            if not question.strip():
                raise DataError(f"{where}, line {begin}: the question is empty")
            yield Question(text=question, options=tuple(options), answer=answer.strip())
    except csv.Error as error:
        raise DataError(f"{where}, line {line}: not valid CSV ({error})") from error
