"""Files -> raw records, streamed, whatever the file is called.

    *.parquet                 rows, a few hundred at a time
    anything else, also .gz   [ …            a JSON array, item by item
                              {…}\\n{…}\\n     JSON lines

What cannot be read comes out as a `Damaged` in its place: it never stops or shortens the run.
Memory stays bounded by `MAX_RECORD` whatever the size of the file.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

MAX_RECORD = 64 * 1024**2
"""Longest record, in bytes (JSON lines) or characters (JSON array), that is taken for one."""

CHUNK = 1 << 20
BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A place in a file that holds no record."""

    reason: str
    """Why, in a few words."""
    excerpt: str = ""
    """How it begins."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One record of a file."""

    line: int
    """Line, row or item number, from 1; 0 for the file as a whole."""
    value: Any
    """The parsed record, or a Damaged."""
    bytes_read: int
    """Bytes of the file on disk read so far, for progress."""


def read_records(path: Path) -> Iterator[Raw]:
    """The records of one raw file, in order."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
            return
        with path.open("rb") as disk:
            file = _unpacked(path, disk)
            yield from _array(file, disk) if _starts_array(path) else _lines(file, disk)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        damage = Damaged(reason=f"cannot read on: {type(error).__name__}: {error}"[:300])
        yield Raw(line=0, value=damage, bytes_read=path.stat().st_size)


def _unpacked(path: Path, disk: IO[bytes]) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=disk))
    return disk


def _starts_array(path: Path) -> bool:
    with path.open("rb") as disk:
        start = _unpacked(path, disk).read(4096)
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _lines(file: IO[bytes], disk: IO[bytes]) -> Iterator[Raw]:
    number = 0
    # Split at \n only: JSON strings may hold \x85 or \u2028, which str.splitlines() would cut at.
    while line := file.readline(MAX_RECORD):
        number += 1
        value: Any
        if len(line) == MAX_RECORD and not line.endswith(b"\n"):
            value = Damaged(reason="longer than a record may be", excerpt=_excerpt(line))
            while (rest := file.readline(MAX_RECORD)) and not rest.endswith(b"\n"):
                pass
        else:
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            value = _parse_bytes(line) if line.strip() else Damaged(reason="empty line")
        yield Raw(line=number, value=value, bytes_read=disk.tell())


def _parse_bytes(line: bytes) -> Any:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Damaged(reason=f"not UTF-8 at byte {error.start}", excerpt=_excerpt(line))
    return _parse(text)


def _parse(text: str) -> Any:
    """A JSON value or a Damaged."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return Damaged(reason=f"malformed JSON: {error.msg}", excerpt=text.strip()[:200])
    except RecursionError:
        return Damaged(reason="malformed JSON: nested too deeply", excerpt=text.strip()[:200])
    except ValueError as error:  # an integer of thousands of digits
        return Damaged(reason=f"malformed JSON: {error}"[:200], excerpt=text.strip()[:200])


_MARK = re.compile(r'["\\{}\[\]]')
_UNDECODED = re.compile("[\ud800-\udfff]")
_NEXT_ITEM = re.compile(r"\n\s*\{")


def _array(file: IO[bytes], disk: IO[bytes]) -> Iterator[Raw]:
    """Items of a JSON array. Each is cut out by its brackets and then parsed on its own."""
    # Bytes that are not UTF-8 become lone surrogates, so one bad item does not end the file.
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    buffer, position, number, ended, started = "", 0, 0, False, False
    while True:
        start = _item_start(buffer, position)
        end = _item_end(buffer, start) if start is not None else None
        overlong = start is not None and end is None and len(buffer) - start > MAX_RECORD
        if end is None and not ended and not overlong:
            data = file.read(CHUNK)
            ended = not data
            fresh = decode(data, ended)
            if not started and fresh:
                fresh = fresh.removeprefix("\ufeff").lstrip().removeprefix("[")
                started = True
            buffer, position = buffer[position:] + fresh, 0
            continue
        if start is None:
            return
        number += 1
        item = buffer[start : end if end is not None else len(buffer)]
        value, used = _item(item, whole=end is not None)
        position = start + used
        yield Raw(line=number, value=value, bytes_read=disk.tell())


def _item(item: str, *, whole: bool) -> tuple[Any, int]:
    """Parse one cut-out item; with it, how many of its characters are used up.

    A stray quote or bracket makes an item swallow the ones behind it; those are given back.
    """
    value = _parse(item) if whole else Damaged(reason="malformed JSON: item does not end")
    if not isinstance(value, Damaged):
        if _UNDECODED.search(item):
            raw = item.encode("utf-8", "surrogateescape")
            return Damaged(reason="not UTF-8", excerpt=_excerpt(raw)), len(item)
        return value, len(item)
    following = _NEXT_ITEM.search(item, 1)
    used = following.start() if following else len(item)
    return Damaged(reason=value.reason, excerpt=item[: min(used, 200)]), used


def _item_start(buffer: str, position: int) -> int | None:
    """Where the next item begins, past blanks and commas; None when there is none."""
    while position < len(buffer) and buffer[position] in " \t\r\n,]":
        position += 1
    return position if position < len(buffer) else None


def _item_end(buffer: str, start: int) -> int | None:
    """Where the item that begins at `start` ends; None when the buffer ends first."""
    if buffer[start] not in '{["':
        end = re.compile(r"[,\]\s]").search(buffer, start)
        return end.start() if end else None
    depth, in_string, position = 0, False, start
    while mark := _MARK.search(buffer, position):
        char, position = mark.group(), mark.end()
        if in_string:
            if char == "\\":
                position += 1
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
        if depth <= 0 and not in_string:
            return position
    return None


def _parquet(path: Path) -> Iterator[Raw]:
    """Rows of a parquet file. The file's size is given out evenly over its rows."""
    size, number = path.stat().st_size, 0
    with pq.ParquetFile(path) as file:
        total = max(1, file.metadata.num_rows)
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for row in range(batch.num_rows):
                number += 1
                yield Raw(line=number, value=_row(batch, row), bytes_read=size * number // total)


def _row(batch: pa.RecordBatch, row: int) -> Any:
    try:
        return {name: batch.column(i)[row].as_py() for i, name in enumerate(batch.schema.names)}
    except UnicodeDecodeError as error:
        return Damaged(reason=f"not UTF-8 at byte {error.start}", excerpt=_excerpt(error.object))


def _excerpt(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace").strip()
