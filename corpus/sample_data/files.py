"""Writers of the file formats that data sets come in; the same rows give the same bytes."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.sample_data.facts import KnowledgeBase

Row = Mapping[str, Any]


RowMaker = Callable[[Random, KnowledgeBase, int], Iterable[Row]]
"""Makes the rows of a data set from random numbers, facts and the number of rows."""

Writer = Callable[[Random, KnowledgeBase, int, Path], None]
"""Writes a data set, as made by a RowMaker, into a folder."""


class DatasetWriter(NamedTuple):
    """A data set: its size, and the function that writes it."""

    rows: int
    """Rows at scale 1."""
    write: Writer


def lines(path: str, make: RowMaker) -> Writer:
    """Writer of a file of JSON lines."""
    return lambda rng, base, count, folder: write_lines(
        folder / path, json_lines(make(rng, base, count))
    )


def array(path: str, make: RowMaker) -> Writer:
    """Writer of a file that is one JSON array."""

    def write(rng: Random, base: KnowledgeBase, count: int, folder: Path) -> None:
        # As `json.dump(..., indent=4)` leaves it.
        text = json.dumps(list(make(rng, base, count)), ensure_ascii=False, indent=4)
        _write(folder / path, text.encode())

    return write


def parquet(path: str, make: RowMaker) -> Writer:
    """Writer of a snappy parquet file; the columns and their types are those of the rows."""

    def write(rng: Random, base: KnowledgeBase, count: int, folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        rows = [dict(row) for row in make(rng, base, count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / path)

    return write


def json_lines(rows: Iterable[Row]) -> list[bytes]:
    """Rows as lines of JSON, without line ends."""
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """One line each, ended by a line feed."""
    _write(path, b"".join(line + b"\n" for line in lines))


def csv_bytes(rows: Iterable[Sequence[Any]], *, line_end: str = "\n") -> bytes:
    """Rows as CSV, quoted only where needed."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=line_end).writerows(rows)
    return buffer.getvalue().encode()


def write_csv(path: Path, rows: Iterable[Sequence[Any]], *, line_end: str = "\n") -> None:
    """A CSV file."""
    _write(path, csv_bytes(rows, line_end=line_end))


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """A zip archive whose members all carry one fixed date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
