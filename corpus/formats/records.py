"""Files -> raw records, streamed, whatever the file is called.

    *.parquet                                    rows, a few hundred at a time
    anything else, also .gz, .zst, any encoding  [ …            a JSON array, item by item
                                                 {…}\\n{…}\\n     JSON lines

What cannot be read comes out as a `Damaged` in its place: it never stops or shortens the run.
Memory stays bounded by `MAX_RECORD` whatever the size of the file.
"""

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.formats.encodings import Encoding, opened, peeked

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
    records: int = 1
    """How many records are lost there, where that is known."""


class Raw(NamedTuple):
    """One record of a file."""

    line: int
    """Line, row or item number, from 1; 0 for the file as a whole."""
    value: Any
    """The parsed record, or a Damaged."""
    bytes_read: int
    """Bytes of the file on disk read so far, for progress."""
    encoding: str = ""
    """Encoding of the file; empty for parquet, which has none."""


BROKEN = (OSError, EOFError, ValueError, zlib.error, pa.ArrowException)
"""What reading a damaged file raises."""


def read_records(path: Path) -> Iterator[Raw]:
    """The records of one raw file, in order."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        with opened(path) as (file, disk, encoding):
            array = peeked(file).lstrip().startswith(b"[")
            yield from (_Array if array else _lines)(file, disk, encoding)
    except BROKEN as error:
        yield cannot_read_on(path, error)


def cannot_read_on(path: Path, error: Exception) -> Raw:
    """What stands for the rest of a file that broke off."""
    damage = Damaged(reason=f"cannot read on: {type(error).__name__}: {error}"[:300])
    return Raw(0, damage, path.stat().st_size)


def _lines(file: IO[bytes], disk: IO[bytes], encoding: Encoding) -> Iterator[Raw]:
    number, at, name = 0, 0, encoding.name
    for number, line in enumerate(split(file), 1):
        if not number % 64:
            at = disk.tell()
        try:
            value: Any = orjson.loads(line)
        except ValueError:
            value = _parse_bytes(line, encoding)
        yield Raw(number, value, at, name)


def split(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of a file. Of one that is longer than a record may be only the beginning is kept, and
    it is one byte longer than MAX_RECORD.

    Split at \\n only: JSON strings may hold \\x85 or \\u2028, which str.splitlines() would cut at.
    """
    while line := file.readline(MAX_RECORD + 1):
        yield line
        while len(line) > MAX_RECORD and not line.endswith(b"\n"):
            line = file.readline(MAX_RECORD + 1)


def decoded(line: bytes, encoding: Encoding) -> str | Damaged:
    """A line as text. Damaged, with the place, where it is not in the file's encoding."""
    if len(line) > MAX_RECORD and not line.endswith(b"\n"):
        return Damaged(reason="longer than a record may be", excerpt=_excerpt(line))
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Damaged(reason=_not_in(encoding, line, error.start), excerpt=_excerpt(line))


def _not_in(encoding: Encoding, line: bytes, start: int) -> str:
    if encoding.codec != "utf-8":  # bytes have moved in transcoding; characters have not
        return f"not {encoding.name} at character {len(line[:start].decode())}"
    doubt = f": the file looks like {encoding.doubt}" if encoding.doubt else ""
    return f"not UTF-8 at byte {start}{doubt}"


def _parse_bytes(line: bytes, encoding: Encoding) -> Any:
    """What the fast parser refuses: the reason, or parsed after all (NaN, a byte order mark)."""
    if not line.strip():
        return Damaged(reason="empty line")
    text = decoded(line, encoding)
    return text if isinstance(text, Damaged) else _parse(text.removeprefix("\ufeff"))


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


_IN_TEXT = re.compile(r'["\\\n]')
_OUTSIDE = re.compile(r'["{}\[\]]')
_BLANKS = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n,\]]*")
_SCALAR_END = re.compile(r"[,\]\s]")
_UNDECODED = re.compile("[\ud800-\udfff]")
_ANY_START = re.compile(r"\n\s*(?=\{)|(?<=\})\s*,\s*(?=\{)")
_FIRST_KEY = re.compile(r'\{\s*("(?:[^"\\]|\\.)*")\s*:')


class _Array:
    """Items of a JSON array. Each is cut out by its brackets and then parsed on its own.

    Behind a damaged item reading goes on where the next line begins like those of items before it,
    or, in an array without line breaks, at the next object with the first key of those before it.
    """

    def __init__(self, file: IO[bytes], disk: IO[bytes], encoding: Encoding) -> None:
        self.file, self.disk, self.encoding = file, disk, encoding
        # Bytes that are not UTF-8 become lone surrogates, so one bad item does not end the file.
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.buffer, self.position, self.ended = "", 0, False
        self.next_start = _ANY_START

    def __iter__(self) -> Iterator[Raw]:
        self._skip(_BLANKS)
        self.position += 1  # the opening bracket
        number, gap = 0, self._skip(_BETWEEN)
        while self.position < len(self.buffer):
            number += 1
            value = self._item(gap)
            yield Raw(number, value, self.disk.tell(), self.encoding.name)
            gap = self._skip(_BETWEEN)

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        data = b"" if self.ended else self.file.read(CHUNK)
        self.ended = not data
        self.buffer += self.decode(data, self.ended)
        return not self.ended

    def _skip(self, blanks: re.Pattern[str]) -> str:
        """Go to the next item, and say what was in between."""
        skipped = ""
        while True:
            match = blanks.match(self.buffer, self.position)
            assert match is not None  # it matches nothing at all, too
            skipped += match.group()
            self.position = match.end()
            if self.position < len(self.buffer):
                if self.position > CHUNK // 2:  # what lies behind is needed no more
                    self.buffer, self.position = self.buffer[self.position :], 0
                return skipped
            self.buffer, self.position = "", 0
            if not self._more():
                return skipped

    def _item(self, gap: str) -> Any:
        start, end = self.position, self._end()
        item = self.buffer[start : end if end is not None else start + 200]
        value: Any = Damaged(reason="malformed JSON: item does not end", excerpt=item)
        if end is not None:
            try:
                value = orjson.loads(item)
            except ValueError:
                value = _parse(item)
        if isinstance(value, Damaged) or end is None:
            self._resume(start + 1)
            return replace(value, excerpt=_shown(item))
        self.position = end
        if _UNDECODED.search(item):
            return Damaged(reason=f"not {self.encoding.name}", excerpt=_shown(item))
        if self.next_start is _ANY_START:
            self.next_start = _start_like(gap, item)
        return value

    def _end(self) -> int | None:
        """Where the item at the position ends; None when it does not, or is too long."""
        start = at = self.position
        depth, in_text = 0, False
        scalar = self.buffer[start] not in '{["'
        while True:
            mark = (_SCALAR_END if scalar else _IN_TEXT if in_text else _OUTSIDE).search(
                self.buffer, at
            )
            if mark is None:
                at = max(at, len(self.buffer))
                if len(self.buffer) - start > MAX_RECORD or not self._more():
                    return len(self.buffer) if scalar else None
                continue
            char, at = mark.group(), mark.end()
            if scalar:
                return mark.start()
            if in_text:
                if char == "\n":  # no string goes over a line end
                    return None
                at += char == "\\"
                in_text = char == "\\"
            elif char == '"':
                in_text = True
            else:
                depth += 1 if char in "{[" else -1
            if depth <= 0 and not in_text:
                return at

    def _resume(self, at: int) -> None:
        """Go to where the next item begins, behind one that is damaged."""
        while not (found := self.next_start.search(self.buffer, at)):
            kept = max(at, len(self.buffer) - 1024)  # a start may be cut in two
            self.buffer, at = self.buffer[kept:], 0
            if not self._more():
                self.position = len(self.buffer)
                return
        self.position = found.start()


def _start_like(gap: str, item: str) -> re.Pattern[str]:
    """What the beginnings of items look like, given what stands before one and the item."""
    _, newline, indent = gap.rpartition("\n")
    if newline and item.startswith("{"):
        return re.compile(rf"\n[ \t]{{0,{len(indent)}}}(?=\{{)")  # what is nested stands deeper
    key = _FIRST_KEY.match(item)
    return re.compile(rf"(?=\{{\s*{re.escape(key[1])}\s*:)") if key else _ANY_START


def _parquet(path: Path) -> Iterator[Raw]:
    """Rows of a parquet file. The file's size is given out evenly over its rows."""
    size, number = path.stat().st_size, 0
    with pq.ParquetFile(path) as file:
        total = max(1, file.metadata.num_rows)
        for group in range(file.metadata.num_row_groups):
            last = number + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
                    for value in _rows(batch):
                        number += 1
                        yield Raw(number, value, size * number // total)
            except BROKEN as error:
                lost = f"cannot read rows {number + 1} to {last}: {type(error).__name__}: {error}"
                damage = Damaged(reason=lost[:300], records=last - number)
                yield Raw(number + 1, damage, size * last // total)
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


def _shown(item: str) -> str:
    """How an item begins; bytes that were not UTF-8 as replacement characters."""
    return _excerpt(item[:200].encode("utf-8", "surrogateescape"))


def _excerpt(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace").strip()
