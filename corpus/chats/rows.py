"""Rows of a data set's own files, one at a time, whatever the container.

    *.jsonl  *.json        JSON lines, or one JSON array (told apart by the first character)
    *.txt                  blocks of lines with an empty line between (LogiQA): {"lines": [...]}
    *.parquet              row groups
    any of them + .gz      the same, compressed

A place that cannot be read is yielded as a `SkippedRow`, and the rest of the file is still read. A
JSON array of any size is read piece by piece, never as a whole.
"""

import contextlib
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow.parquet as parquet

from common.errors import ConfigError, DataError

Row: TypeAlias = Mapping[str, Any]

SUFFIXES = (".jsonl", ".json", ".txt", ".parquet")
"""Containers that can be read, each also with .gz except parquet."""

_CHUNK = 1 << 20
_TEST_SPLIT = re.compile(r"(^|[^a-z])test([^a-z]|$)")


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


def matching_files(folder: Path, patterns: tuple[str, ...], *, where: str) -> list[Path]:
    """The files of `folder` that a recipe's patterns name, sorted.

    A file whose name says that it is a test split is refused: the published mixtures trained on the
    test splits of ARC, OpenBookQA and LogiQA.

    Raises ConfigError for a pattern or a match that names a test split, DataError when nothing
    matches.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for name in [*patterns, *(str(path.relative_to(folder)) for path in found)]:
        if _TEST_SPLIT.search(name.lower()):
            raise ConfigError(
                f"{where} names {name!r}, a test split: train on train files only, and let the "
                "recipe's `files` name them"
            )
    if not found:
        raise DataError(
            f"{folder} has no file that matches {', '.join(patterns)} of {where}: check the data "
            "set's location, or correct `files` in the recipe"
        )
    return sorted(found)


def read_rows(folder: Path, files: list[Path]) -> Iterator[LocatedRow | SkippedRow]:
    """Every row of `files`, in order. Raises DataError for a container that is not known."""
    for path in files:
        name = str(path.relative_to(folder))
        suffix = Path(path.stem if path.suffix == ".gz" else path.name).suffix
        if suffix == ".parquet":
            yield from _parquet_rows(path, name)
        elif suffix in SUFFIXES:
            with _opened(path) as file:
                yield from (_text_blocks if suffix == ".txt" else _json_rows)(file, name)
        else:
            raise DataError(f"{path} is none of {', '.join(SUFFIXES)} (or one of them with .gz)")


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _json_rows(file: IO[str], name: str) -> Iterator[LocatedRow | SkippedRow]:
    head = file.read(_CHUNK)
    if head.lstrip("\ufeff \t\r\n").startswith("["):
        yield from _array_rows(file, head.lstrip("\ufeff \t\r\n")[1:], name)
    else:
        yield from _line_rows(file, head.removeprefix("\ufeff"), name)


def _line_rows(file: IO[str], head: str, name: str) -> Iterator[LocatedRow | SkippedRow]:
    head += file.readline()  # the first chunk may end inside a line
    # Only line feeds end a JSON line: str.splitlines would cut at U+2028 inside a string.
    first = head.split("\n")
    if first and first[-1] == "":
        first.pop()
    number = 0
    for lines in (first, file):
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield SkippedRow(
                    file=name, line=number, reason=f"not JSON: {error.msg}", excerpt=line[:200]
                )
                continue
            yield _located(name, number, row)


def _array_rows(file: IO[str], buffer: str, name: str) -> Iterator[LocatedRow | SkippedRow]:
    decoder = json.JSONDecoder()
    number = at = 0
    while True:
        while at < len(buffer) and buffer[at] in ", \t\r\n":
            at += 1
        if buffer.startswith("]", at):
            return
        row = None
        with contextlib.suppress(json.JSONDecodeError):
            row, end = decoder.raw_decode(buffer, at)
        # A number at the buffer's end might go on in the next chunk; these can't.
        if isinstance(row, dict | list | str):
            at = end
            number += 1
            yield _located(name, number, row)
            continue
        more = file.read(max(_CHUNK, len(buffer) - at))
        if not more:
            yield SkippedRow(
                file=name,
                line=number + 1,
                excerpt=buffer[at : at + 200],
                reason="the JSON array is broken or cut off here",
            )
            return
        buffer, at = buffer[at:] + more, 0


def _text_blocks(file: IO[str], name: str) -> Iterator[LocatedRow]:
    block: list[str] = []
    start = 1
    for number, line in enumerate(file, start=1):
        if line.strip():
            if not block:
                start = number
            block.append(line.strip())
        elif block:
            yield LocatedRow(file=name, line=start, row={"lines": block})
            block = []
    if block:
        yield LocatedRow(file=name, line=start, row={"lines": block})


def _parquet_rows(path: Path, name: str) -> Iterator[LocatedRow]:
    number = 0
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield LocatedRow(file=name, line=number, row=row)


def _located(name: str, number: int, row: Any) -> LocatedRow | SkippedRow:
    if isinstance(row, Mapping):
        return LocatedRow(file=name, line=number, row=row)
    return SkippedRow(file=name, line=number, reason="not an object", excerpt=str(row)[:200])
