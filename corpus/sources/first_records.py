"""The first records of one file, written in the file's own format.

    parquet       rows        the first rows, same schema and compression
    [ … ]         items       a JSON array of the first items, each byte by byte as it was
    {…}\\n{…}\\n    lines       the first lines, byte by byte as they were; blank ones don't count
    CSV, TSV    rows        the line of names, and the first rows, whole ones
    else          the file    one record, taken whole

The file is read only as far as it is needed. `.gz` and `.zst` are decompressed on the way.
"""

import codecs
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from common.disk import format_bytes
from common.errors import DataError
from corpus import json_items
from corpus.json_items import Lookahead, array_items
from corpus.sources.archives import UnpackLimits, refuse_if_damaged
from corpus.sources.compression import DecompressingReader, archive_type

Reading = Literal["records", "files", "lines"]
"""Unit that counts as a record, as a corpus's recipe says."""

CHUNK = 1 << 16
BATCH_ROWS = 256
MAX_GROUP = 64 * 1024**2
"""Bytes of one row group that is written."""


@dataclass(frozen=True, kw_only=True)
class TakenRecords:
    """Records that a sample has taken of one file."""

    num_records: int
    """Lines, items, rows, or 1 for a whole file."""
    num_bytes: int
    """Bytes of the stored file that they take, about."""
    has_more: bool
    """True if only the limit on the number of records has left some out."""


NOTHING = TakenRecords(num_records=0, num_bytes=0, has_more=False)


@dataclass(frozen=True, kw_only=True)
class RecordLimit:
    """Extent of a file that is taken: until one of the two limits is reached."""

    num_bytes: float
    """Bytes of the stored file: a record that begins before them is taken."""
    num_records: int | None
    """Records; None for all."""

    def allows(self, position: float, taken: int) -> bool:
        """True if the next record, which begins at `position`, is taken after `taken` others."""
        return position < self.num_bytes and (self.num_records is None or taken < self.num_records)

    def result(self, position: float, taken: int, *, at_end: bool) -> TakenRecords:
        """Result when the first record that was not taken begins at `position`."""
        has_more = not at_end and position < self.num_bytes
        return TakenRecords(num_records=taken, num_bytes=math.ceil(position), has_more=has_more)


def write_first_records(
    raw: IO[bytes],
    size: int,
    name: str,
    out: IO[bytes],
    limit: RecordLimit,
    label: str,
    reading: Reading = "records",
) -> TakenRecords:
    """Write the first records of a file.

    Args:
        raw: the stored file; must be able to seek if it is parquet.
        size: its bytes.
        name: its name, which tells if it is compressed.
        out: file to write to.
        limit: extent to take.
        label: name of the file in messages.
        reading: `files` takes it whole and `lines` by lines, whatever it looks like.

    Raises:
        DataError: it is damaged, or a record is longer than `json_items.MAX_RECORD`.
    """
    packed = archive_type(name, streams=True)
    plain_name = name[: -len(packed.suffix)] if packed else name
    reading = _reading_of(plain_name.lower(), reading)
    records = reading == "records" and packed is None
    if records and (name.lower().endswith(".parquet") or _magic(raw) == b"PAR1"):
        try:
            return _rows(raw, size, out, limit)
        except (pa.ArrowException, EOFError) as error:
            raise DataError(f"{label} is damaged: {type(error).__name__}: {error}") from error
    limits = UnpackLimits(label, size)
    with refuse_if_damaged(limits):
        content = _Content(raw, packed.codec if packed else "", limits, label)
        found = _layout(content, plain_name.lower()) if reading == "records" else reading
        match found:
            case "array":
                return _items(content, out, limit)
            case "lines":
                return _lines(content, out, limit, is_table=plain_name.lower().endswith(TABLES))
            case _:
                return _whole(content, size, out, limit)


ROWS = (".jsonl", ".ndjson", ".json", ".parquet")
TABLES = (".csv", ".tsv", ".tab")
DOCUMENTS = (".docx", ".epub")
"""Endings of files that are read alike whatever a recipe's `reading` says of texts."""


def _reading_of(name: str, reading: Reading) -> Reading:
    """Reading of one file of a corpus that may hold others; of a table a row is a record."""
    if name.endswith(ROWS):
        return "records"
    if name.endswith(TABLES):
        return "lines"
    return "files" if name.endswith(DOCUMENTS) else reading


def _magic(raw: IO[bytes]) -> bytes:
    start = raw.read(4)
    raw.seek(0)
    return start


class _Content(Lookahead):
    """Unpacked content of a file, whose offsets can be found in the stored file."""

    def __init__(self, raw: IO[bytes], codec: str, limits: UnpackLimits, label: str) -> None:
        self._reader: DecompressingReader | None = None
        if codec:
            self._reader = DecompressingReader(
                raw, codec, on_output=lambda n: limits.add_bytes("", n), track_position=True
            )
        super().__init__((self._reader or raw).read, CHUNK)
        self._label = label

    def grow(self) -> bool:
        """Read some more. Raises DataError when the buffer holds more than a record may have."""
        if len(self.buffer) > json_items.MAX_RECORD:
            raise DataError(
                f"{self._label} has a record of more than {format_bytes(json_items.MAX_RECORD)}, "
                "which no sample can take: acquire it whole, without fraction and limit"
            )
        return super().grow()

    def position(self, offset: int | None = None) -> float:
        """Position in the stored file of an offset, or of the buffer's first byte."""
        offset = self.start if offset is None else offset
        return self._reader.compressed_position(offset) if self._reader else float(offset)


def _layout(content: _Content, name: str) -> str:
    """`array`, `lines` or `whole`: how a file's records stand in it."""
    suffix = Path(name).suffix
    while len(content.buffer) < 4096 and content.grow():
        pass
    start = bytes(content.buffer).removeprefix(codecs.BOM_UTF8).lstrip()
    if suffix not in (".json", ".jsonl", ".ndjson", ""):
        return "whole"
    if start.startswith(b"["):
        return "array"
    if suffix in (".jsonl", ".ndjson"):
        return "lines"
    if not start.startswith(b"{"):
        return "whole"
    # One object over many lines is one record; JSON lines are often named .json.
    while b"\n" not in content.buffer.lstrip(b"\xef\xbb\xbf \t\r\n") and content.grow():
        pass
    first = bytes(content.buffer).removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    return "lines" if first.rstrip().endswith(b"}") else "whole"


MAX_ROW_LINES = 20_000
"""Lines that a quote in a table is followed over."""

_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Mark of a file -> its encoding."""


def _lines(
    content: _Content, out: IO[bytes], limit: RecordLimit, *, is_table: bool
) -> TakenRecords:
    """Lines; of a table rows, whose quoted cells may hold line ends, behind its first line."""
    while len(content.buffer) < 2 and content.grow():
        pass
    # Others that tables come in keep ASCII's bytes for line ends and quotes.
    encoding = _UTF16.get(bytes(content.buffer[:2]), "latin-1")
    newline = "\n".encode(encoding)
    taken = searched = inside = 0
    named, open_quote = not is_table, False
    while True:
        end = _line_end(content.buffer, newline, searched)
        if end < 0 and not content.ended:
            searched = max(0, len(content.buffer) - len(newline) + 1)
            content.grow()
            continue
        if end < 0 and not content.buffer:
            return limit.result(content.position(), taken, at_end=True)
        line = content.buffer[:end] if end >= 0 else content.buffer[:]
        if not open_quote and line.strip(b" \t\r\n\0"):
            if not limit.allows(content.position(), taken):
                return limit.result(content.position(), taken, at_end=False)
            taken += named
            named = True
        open_quote ^= bool(is_table and line.decode(encoding, "replace").count('"') % 2)
        inside = inside + 1 if open_quote else 0
        open_quote = open_quote and inside < MAX_ROW_LINES
        out.write(line)
        content.drop(len(line))
        searched = 0


def _line_end(buffer: bytearray, newline: bytes, start: int) -> int:
    """Offset behind the first line end; below 0 where there is none."""
    at = buffer.find(newline, start)
    while at >= 0 and at % len(newline):  # half of two characters
        at = buffer.find(newline, at + 1)
    return at + len(newline) if at >= 0 else -1


def _items(content: _Content, out: IO[bytes], limit: RecordLimit) -> TakenRecords:
    taken = 0
    out.write(b"[")
    for item in array_items(content):
        position = content.position(item.offset)
        if not limit.allows(position, taken):
            out.write(b"\n]\n")
            return limit.result(position, taken, at_end=False)
        out.write(b",\n" if taken else b"\n")
        out.write(item.data)
        taken += 1
    out.write(b"\n]\n")
    return limit.result(content.position(), taken, at_end=True)


def _whole(content: _Content, size: int, out: IO[bytes], limit: RecordLimit) -> TakenRecords:
    if not limit.allows(0.0, 0):
        return NOTHING
    while content.buffer or (not content.ended and content.grow()):
        out.write(content.buffer)
        content.drop(len(content.buffer))
    return TakenRecords(num_records=1, num_bytes=size, has_more=False)


def _rows(raw: IO[bytes], size: int, out: IO[bytes], limit: RecordLimit) -> TakenRecords:
    # A buffer size of its own, so that a column is read as far as its rows are needed.
    with pq.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False) as file:
        total = file.metadata.num_rows
        share = min(total, math.ceil(total * limit.num_bytes / size))
        wanted = share if limit.num_records is None else min(share, limit.num_records)
        if wanted <= 0:
            return TakenRecords(num_records=0, num_bytes=0, has_more=share > 0)
        groups: list[int] = []
        available = taken = 0
        while available < wanted:
            available += file.metadata.row_group(len(groups)).num_rows
            groups.append(len(groups))
        with pq.ParquetWriter(out, file.schema_arrow, compression=_compression(file)) as writer:
            group: list[pa.RecordBatch] = []
            for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
                group.append(batch.slice(0, wanted - taken))
                taken += group[-1].num_rows
                if taken == wanted or sum(rows.nbytes for rows in group) > MAX_GROUP:
                    writer.write_table(pa.Table.from_batches(group, schema=file.schema_arrow))
                    group = []
                if taken == wanted:
                    break
    used = math.ceil(size * wanted / total)
    return TakenRecords(num_records=wanted, num_bytes=used, has_more=wanted < share)


def _compression(file: Any) -> str:
    group = file.metadata.row_group(0)
    codec = group.column(0).compression.lower() if group.num_columns else "snappy"
    return "none" if codec == "uncompressed" else codec
