"""Rows of a data set's own files, one at a time, whatever the container.

    *.jsonl  *.json        JSON lines, or one JSON array (told apart by the first character)
    *.txt                  blocks of lines with an empty line between (LogiQA): {"lines": [...]}
    *.parquet              row groups
    any of them + .gz      the same, compressed

Read by corpus/formats in any encoding, with bounded memory. A place that cannot be read is yielded
as a `SkippedRow`, and the rest of the file is still read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import DataError
from corpus.benchmarks.evaluation_splits import refuse_test_split
from corpus.formats.encodings import data_suffix
from corpus.formats.records import (
    CANNOT_READ,
    EMPTY_LINE,
    Damaged,
    RawRecord,
    read_records,
    reason_class,
)
from corpus.formats.text_files import read_lines
from corpus.json_items import exact_loads
from corpus.text_fields import excerpt_of

Row: TypeAlias = Mapping[str, Any]

SUFFIXES = (".jsonl", ".json", ".txt", ".parquet")
"""Containers that can be read, each also with .gz except parquet."""


@dataclass(frozen=True, kw_only=True)
class LocatedRow:
    """A row and its place."""

    file: str
    """Path inside the data set's folder."""
    line: int
    """Line (JSON lines, text) or row number, from 1."""
    row: Row
    """The row as its file has it."""


@dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A row that is not used, or something in a file that is not a row."""

    file: str
    """Path inside the data set's folder."""
    line: int
    """Line or row number, from 1."""
    reason: str
    """A few words, the same for all rows of a kind."""
    excerpt: str
    """Its beginning."""
    malformed: bool = False
    """True for what is damaged or of another form than its format; False for a sound row that
    cannot be learned from, such as one without an answer."""

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


def matching_files(folder: Path, patterns: tuple[str, ...], *, where: str) -> list[Path]:
    """The files of `folder` that a recipe's patterns name, sorted.

    A file whose name says that it is a test split is refused (corpus.benchmarks): the published
    mixtures trained on the test splits of ARC, OpenBookQA and LogiQA.

    Raises ConfigError for a pattern or a match that names a test split, DataError when nothing
    matches.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    refuse_test_split([*patterns, *sorted(str(path.relative_to(folder)) for path in found)], where)
    if not found:
        raise DataError(
            f"{folder} has no file that matches {', '.join(patterns)} of {where}: check the data "
            "set's location, or correct `files` in the recipe"
        )
    return sorted(found)


def read_rows(folder: Path, files: list[Path]) -> Iterator[LocatedRow | SkippedRow]:
    """Every row of `files`, in order.

    Raises DataError for a container that is not known, or a file that cannot be read to its end.
    """
    for path in files:
        name = str(path.relative_to(folder))
        suffix = data_suffix(path)
        if suffix not in SUFFIXES:
            raise DataError(f"{path} is none of {', '.join(SUFFIXES)} (or one of them with .gz)")
        records = _text_blocks(path) if suffix == ".txt" else read_records(path, exact_loads)
        for record in records:
            row = record.value
            if isinstance(row, Mapping):
                yield LocatedRow(file=name, line=record.line, row=row)
            elif isinstance(row, Damaged) and row.reason.startswith(CANNOT_READ):
                raise DataError(f"{path}: {row.reason}. Get the file again.")
            elif not isinstance(row, Damaged):
                yield SkippedRow(
                    file=name,
                    line=record.line,
                    reason="not an object",
                    excerpt=excerpt_of(row),
                    malformed=True,
                )
            elif row.reason != EMPTY_LINE:
                yield SkippedRow(
                    file=name,
                    line=record.line,
                    reason=reason_class(row.reason),
                    excerpt=excerpt_of(row.excerpt),
                    malformed=True,
                )


def _text_blocks(path: Path) -> Iterator[RawRecord]:
    block: list[str] = []
    start = 1
    for record in read_lines(path, blank=True):
        if isinstance(record.value, Damaged):
            yield record
        elif line := record.value["text"].strip():
            if not block:
                start = record.line
            block.append(line)
        elif block:
            yield record._replace(line=start, value={"lines": block})
            block = []
    if block:
        yield RawRecord(start, {"lines": block}, path.stat().st_size)
