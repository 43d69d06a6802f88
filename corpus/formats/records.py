"""Raw records of a file, streamed, whatever the file is called.

    *.parquet                                    rows, a few hundred at a time
    anything else, also .gz, .zst, any encoding  [ …            a JSON array, item by item
                                                 {…}\\n{…}\\n     JSON lines
                                                 {\\n  "a": …   objects over many lines
                                                 {…}{…}       objects one after the other
                                                 {"data": [   the list is what is read

What cannot be read comes out as a `Damaged` in its place: it never stops or shortens the run.
Memory stays bounded by `json_items.MAX_RECORD` whatever the size of the file.
"""

import contextlib
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import json_items
from corpus.chunk_reader import ChunkReader
from corpus.formats.encodings import Encoding, Neighbours, data_suffix, open_as_utf8, peek
from corpus.formats.legacy_chinese import repaired_line
from corpus.json_items import (
    Item,
    Loads,
    Lookahead,
    MalformedJson,
    RepeatedKey,
    array_items,
    fast_loads,
    parse_almost_json,
    parse_json,
)

BATCH_ROWS = 256

EMPTY_LINE = "empty line"
"""Reason for a blank line among JSON lines."""

CANNOT_READ = "cannot read"
"""Beginning of the reason for the rest of a file, or a part of it, that cannot be read."""

_PARTICULARS = re.compile(r":| at (?:byte|character) \d| of line \d| rows \d")


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A place in a file that holds no record."""

    reason: str
    """Defect in a few words."""
    excerpt: str = ""
    """Its beginning."""
    records: int = 1
    """Number of records lost there, where that is known."""


class RawRecord(NamedTuple):
    """One record of a file."""

    line: int
    """Line, row or item number, from 1; 0 for the file as a whole."""
    value: Any
    """The parsed record, or a Damaged."""
    bytes_read: int
    """Bytes of the file on disk read so far, for progress."""
    encoding: str = ""
    """Encoding of the file; empty for parquet, which has none."""
    lost: int = 0
    """Damaged places of the record, each of which is a `legacy_chinese.LOST` in it now."""


READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, pa.ArrowException)
"""Errors that reading a damaged file raises."""


def reason_class(reason: str) -> str:
    """A reason without its particulars, to count by."""
    return _PARTICULARS.split(reason, maxsplit=1)[0]


def read_records(
    path: Path, loads: Loads = fast_loads, neighbours: Neighbours | None = None
) -> Iterator[RawRecord]:
    """The records of one raw file, in order.

    neighbours: the files of its corpus, for the encoding of one too short to tell.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        with open_as_utf8(path, neighbours) as (file, disk, encoding):
            if peek(file).lstrip().startswith(b"["):
                yield from _items(file.read, disk, encoding, loads)
                return
            first = _first_lines(file)
            # In .jsonl a list is part of its row.
            wrapped = _WRAPPED.match(first) if data_suffix(path) == ".json" else None
            if wrapped and not _HAS_TEXT.search(wrapped.group()):
                read = _read_after(first[wrapped.end() :], file)
                yield from _items(read, disk, encoding, loads, to_bracket=True)
            elif _is_spread(first):
                # Objects over many lines are what an array holds, without its brackets.
                yield from _items(_read_after(b"[" + first, file), disk, encoding, loads)
            else:
                rest = cast("IO[bytes]", io.BufferedReader(ChunkReader(_chunks(first, file))))
                yield from _lines(rest, disk, encoding, loads)
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)


def unreadable_rest(path: Path, error: Exception) -> RawRecord:
    """Record that stands for the rest of a file that cannot be read on."""
    damage = Damaged(reason=f"{CANNOT_READ} on: {type(error).__name__}: {error}"[:300])
    return RawRecord(0, damage, path.stat().st_size)


def _lines(
    file: IO[bytes], disk: IO[bytes], encoding: Encoding, loads: Loads
) -> Iterator[RawRecord]:
    number, at, name = 0, 0, encoding.name
    for number, line in enumerate(split_lines(file), 1):
        if not number % 64:
            at = disk.tell()
        lost = 0
        try:
            value: Any = loads(line)
        except ValueError:
            value, lost = _parse_line(line, encoding)
        yield RawRecord(number, value, at, name, lost)


FEW_BYTES = 1 << 12
FIRST_LINES = 1 << 16
"""Bytes at the beginning of a file that are looked at."""


def _first_lines(file: IO[bytes]) -> bytes:
    """The first lines of a file, at least two that are not blank."""
    first = b""
    while len(first) < FIRST_LINES and (line := file.readline(FIRST_LINES)):
        first += line
        if len(first) > FEW_BYTES and first.lstrip().count(b"\n") >= 2:
            break
    return first


_WRAPPED = re.compile(
    rb'\A\s*\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[\w.+-]+)\s*,){0,50}+'
    rb'\s*"(?:data|records?|rows|items|docs|documents|articles|examples|results|list)"\s*:\s*'
    rb"(?=\[\s*\{[^\n]*(?:\n(?!\s*\{\s*\"(?:data|records?|rows|items|docs)\")|$))",
    re.IGNORECASE,
)
"""Beginning of a file that is one object with its rows in a list, as databases export them."""


_HAS_TEXT = re.compile(
    rb'"(?:text|content|body|\xe6\xad\xa3\xe6\x96\x87|\xe5\x86\x85\xe5\xae\xb9)"\s*:'
)
"""Field of an object that is a document itself (the last two are 正文 and 内容)."""


def _is_spread(first: bytes) -> bool:
    """True if a file begins with an object whose line ends before its first value does, or with
    another object behind it on the same line."""
    beginning, newline, following = first.lstrip().partition(b"\n")
    if beginning.startswith(b"{") and b"}" in beginning[:-1]:
        try:
            line = beginning.decode("utf-8", "replace")
            if line[json.JSONDecoder().raw_decode(line)[1] :].lstrip().startswith("{"):
                return True
        except (ValueError, RecursionError):
            pass
    key = re.match(rb'\s*"', following)
    return bool(newline and re.fullmatch(rb"\{\s*", beginning) and key) or bool(
        # Objects of several lines, the first key beside the bracket.
        newline and re.fullmatch(rb'\{\s*".*,\s*', beginning) and key and not _parses(beginning)
    )


def _parses(line: bytes) -> bool:
    try:
        parse_json(line.decode("utf-8", "replace"))
    except ValueError:
        return False
    return True


def _read_after(first: bytes, file: IO[bytes]) -> Callable[[int], bytes]:
    """A function that reads what was read already, and then the file."""
    waiting = [first]
    return lambda size: waiting.pop() if waiting else file.read(size)


def _chunks(first: bytes, file: IO[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    while data := file.read(1 << 16):
        yield data


def _items(
    read: Callable[[int], bytes],
    disk: IO[bytes],
    encoding: Encoding,
    loads: Loads,
    *,
    to_bracket: bool = False,
) -> Iterator[RawRecord]:
    items = array_items(Lookahead(read), loads, to_bracket=to_bracket)
    for number, item in enumerate(items, 1):
        value, lost = _mended(item, encoding) if item.reason else (item.value, 0)
        yield RawRecord(number, value, disk.tell(), encoding.name, lost)


def _mended(item: Item, encoding: Encoding) -> tuple[Any, int]:
    """A damaged item of an array: (its value or a Damaged, damaged places in it)."""
    not_utf8 = item.reason == json_items.NOT_UTF8
    text, lost = (repaired_line(item.data, encoding) if not_utf8 else None) or ("", 0)
    if not not_utf8 and not item.reason.startswith(json_items.REPEATED):
        text = item.data.decode("utf-8", "replace")
        text = "" if "\ufffd" in text else text
    for whole in (text, text.rstrip().removesuffix("]")) if text else ():
        with contextlib.suppress(MalformedJson):
            return parse_almost_json(whole), lost
    reason = f"not {encoding.name}" if not_utf8 else item.reason
    return Damaged(reason=reason, excerpt=item.excerpt), 0


def split_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of a file; of one longer than `json_items.MAX_RECORD`, that many bytes and one more.

    Split at \\n only: JSON strings may hold \\x85 or \\u2028, which str.splitlines() would cut at.
    At \\r where a file begins without any \\n.
    """
    start = peek(file)
    if b"\r" in start and b"\n" not in start:  # of an old Mac
        chunks = (data.replace(b"\r", b"\n") for data in _chunks(b"", file))
        file = cast("IO[bytes]", io.BufferedReader(ChunkReader(chunks)))
    while line := file.readline(json_items.MAX_RECORD + 1):
        yield line
        while len(line) > json_items.MAX_RECORD and not line.endswith(b"\n"):
            line = file.readline(json_items.MAX_RECORD + 1)


def decode_line(line: bytes, encoding: Encoding) -> tuple[str | Damaged, int]:
    """A line as text, and the damaged places in it (`repaired_line`).

    Damaged, with the place, where too much of it is not in the file's encoding.
    """
    if len(line) > json_items.MAX_RECORD and not line.endswith(b"\n"):
        return Damaged(reason="longer than a record may be", excerpt=_excerpt(line)), 0
    try:
        return line.decode(), 0
    except UnicodeDecodeError as error:
        damage = Damaged(reason=_not_in(encoding, line, error.start), excerpt=_excerpt(line))
        return repaired_line(line, encoding) or (damage, 0)


def _not_in(encoding: Encoding, line: bytes, start: int) -> str:
    if encoding.codec != "utf-8":  # bytes have moved in transcoding; characters have not
        return f"not {encoding.name} at character {len(line[:start].decode())}"
    doubt = f": the file looks like {encoding.doubt}" if encoding.doubt else ""
    return f"not UTF-8 at byte {start}{doubt}"


def _parse_line(line: bytes, encoding: Encoding) -> tuple[Any, int]:
    """Parse a line that the fast parser refuses: (value, damaged places in it), or a Damaged."""
    if not line.strip():
        return Damaged(reason=EMPTY_LINE), 0
    text, lost = decode_line(line, encoding)
    if isinstance(text, Damaged):
        return text, 0
    text = text.removeprefix("\ufeff")
    try:
        return parse_json(text), lost
    except MalformedJson as malformed:
        if not isinstance(malformed, RepeatedKey):
            with contextlib.suppress(MalformedJson):
                return parse_almost_json(text), lost
        return Damaged(reason=str(malformed), excerpt=text.strip()[:200]), 0


def _parquet(path: Path) -> Iterator[RawRecord]:
    """Rows of a parquet file. The file's size is given out evenly over its rows."""
    size, number = path.stat().st_size, 0
    with pq.ParquetFile(path) as file:
        total = max(1, file.metadata.num_rows)
        if twice := [n for n, count in Counter(file.schema_arrow.names).items() if count > 1]:
            # `to_pylist` would keep the last one.
            damage = Damaged(reason=f"{json_items.REPEATED}: {twice[0][:40]!r}")
            for number in range(1, file.metadata.num_rows + 1):
                yield RawRecord(number, damage, size * number // total)
            return
        for group in range(file.metadata.num_row_groups):
            last = number + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
                    for value in _rows(batch):
                        number += 1
                        yield RawRecord(number, value, size * number // total)
            except READ_ERRORS as error:
                rows = f"rows {number + 1} to {last}"
                lost = f"{CANNOT_READ} {rows}: {type(error).__name__}: {error}"
                damage = Damaged(reason=lost[:300], records=last - number)
                yield RawRecord(number + 1, damage, size * last // total)
            number = last


def _rows(batch: pa.RecordBatch) -> list[Any]:
    try:
        rows: list[Any] = batch.to_pylist()
        return rows
    except (UnicodeDecodeError, ValueError):  # a damaged cell, or a date that Python has not
        return [_row(batch, row) for row in range(batch.num_rows)]


def _row(batch: pa.RecordBatch, row: int) -> Any:
    try:
        return {name: batch.column(i)[row].as_py() for i, name in enumerate(batch.schema.names)}
    except UnicodeDecodeError as error:
        return Damaged(reason=f"not UTF-8 at byte {error.start}", excerpt=_excerpt(error.object))
    except ValueError as error:
        return Damaged(reason=f"not a value: {error}"[:300])


def _excerpt(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace").strip()
