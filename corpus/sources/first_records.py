"""The front of one file, record by record, written in the file's own format.

    parquet       rows        the first rows, same schema and compression
    [ … ]         items       a JSON array of the first items, each byte by byte as it was
    {…}\\n{…}\\n    lines       the first lines, byte by byte as they were; blank ones don't count
    else          the file    one record, taken whole

The file is read only as far as it is needed. `.gz` and `.zst` are unpacked on the way.
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
from corpus.sources.archives import Budget, blame
from corpus.sources.compression import Decompressed, packing

Reading = Literal["records", "files", "lines"]
"""What is a record, as a corpus's recipe says."""

CHUNK = 1 << 16
BATCH_ROWS = 256
MAX_GROUP = 64 * 1024**2
"""Bytes of one row group that is written."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a sample has taken of one file."""

    records: int
    """Lines, items, rows, or 1 for a whole file."""
    bytes: int
    """About how many bytes of the stored file they take."""
    more: bool
    """Whether the file has more that only `quota` has left out."""


@dataclass
class Front:
    """How far a file is read: until one of the two is reached."""

    share: float
    """Bytes of the stored file: a record that begins before them is taken."""
    quota: int | None
    """Records; None for all."""
    records: int = 0

    def wants(self, position: float) -> bool:
        """Whether the next record, which begins at `position`, is taken."""
        return position < self.share and (self.quota is None or self.records < self.quota)

    def taken(self, position: float, *, at_end: bool) -> Taken:
        """What was taken, when the first record that was not begins at `position`."""
        more = not at_end and position < self.share
        return Taken(records=self.records, bytes=math.ceil(position), more=more)


def take_front(
    raw: IO[bytes],
    size: int,
    name: str,
    out: IO[bytes],
    front: Front,
    label: str,
    reading: Reading = "records",
) -> Taken:
    """Write the first records of a file.

    Args:
        raw: the stored file; must be able to seek if it is parquet.
        size: its bytes.
        name: its name; says whether it is compressed.
        out: where the records go.
        front: how many.
        label: what to call the file in messages.
        reading: `files` takes it whole and `lines` by lines, whatever it looks like.

    Raises:
        DataError: it is damaged, or a record is longer than `json_items.MAX_RECORD`.
    """
    packed = packing(name, streams=True)
    records = reading == "records" and packed is None
    if records and (name.lower().endswith(".parquet") or _magic(raw) == b"PAR1"):
        try:
            return _rows(raw, size, out, front)
        except (pa.ArrowException, EOFError) as error:
            raise DataError(f"{label} is damaged: {type(error).__name__}: {error}") from error
    budget = Budget(label, size)
    with blame(budget):
        stream = _Content(raw, packed.codec if packed else "", budget, label)
        plain = name[: -len(packed.suffix)] if packed else name
        found = _format(stream, plain.lower()) if reading == "records" else reading
        match found:
            case "array":
                return _items(stream, out, front)
            case "lines":
                return _lines(stream, out, front)
            case _:
                return _whole(stream, size, out, front)


def _magic(raw: IO[bytes]) -> bytes:
    start = raw.read(4)
    raw.seek(0)
    return start


class _Content(Lookahead):
    """Unpacked content of a file, whose offsets can be found in the stored file."""

    def __init__(self, raw: IO[bytes], codec: str, budget: Budget, label: str) -> None:
        self._unpacked = (
            Decompressed(raw, codec, spend=lambda n: budget.spend("", n), tracked=True)
            if codec
            else None
        )
        super().__init__((self._unpacked or raw).read, CHUNK)
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
        return self._unpacked.position(offset) if self._unpacked else float(offset)


def _format(text: _Content, name: str) -> str:
    suffix = Path(name).suffix
    while len(text.buffer) < 4096 and text.grow():
        pass
    start = bytes(text.buffer).removeprefix(codecs.BOM_UTF8).lstrip()
    if suffix not in (".json", ".jsonl", ".ndjson", ""):
        return "whole"
    if start.startswith(b"["):
        return "array"
    if suffix in (".jsonl", ".ndjson"):
        return "lines"
    if not start.startswith(b"{"):
        return "whole"
    # One object over many lines is one record; JSON lines are often named .json.
    while b"\n" not in text.buffer.lstrip(b"\xef\xbb\xbf \t\r\n") and text.grow():
        pass
    first = bytes(text.buffer).removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    return "lines" if first.rstrip().endswith(b"}") else "whole"


def _lines(text: _Content, out: IO[bytes], front: Front) -> Taken:
    searched = 0
    while True:
        end = text.buffer.find(b"\n", searched)
        if end < 0 and not text.ended:
            searched = len(text.buffer)
            text.grow()
            continue
        if end < 0 and not text.buffer:
            return front.taken(text.position(), at_end=True)
        line = text.buffer[: end + 1] if end >= 0 else text.buffer[:]
        if line.strip():
            if not front.wants(text.position()):
                return front.taken(text.position(), at_end=False)
            front.records += 1
        out.write(line)
        text.drop(len(line))
        searched = 0


def _items(text: _Content, out: IO[bytes], front: Front) -> Taken:
    out.write(b"[")
    for item in array_items(text):
        position = text.position(item.offset)
        if not front.wants(position):
            out.write(b"\n]\n")
            return front.taken(position, at_end=False)
        out.write(b",\n" if front.records else b"\n")
        out.write(item.data)
        front.records += 1
    out.write(b"\n]\n")
    return front.taken(text.position(), at_end=True)


def _whole(text: _Content, size: int, out: IO[bytes], front: Front) -> Taken:
    if not front.wants(0.0):
        return Taken(records=0, bytes=0, more=False)
    while text.buffer or (not text.ended and text.grow()):
        out.write(text.buffer)
        text.drop(len(text.buffer))
    return Taken(records=1, bytes=size, more=False)


def _rows(raw: IO[bytes], size: int, out: IO[bytes], front: Front) -> Taken:
    # A buffer size of its own, so that a column is read as far as its rows are needed.
    with pq.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False) as file:
        total = file.metadata.num_rows
        share = min(total, math.ceil(total * front.share / size))
        wanted = share if front.quota is None else min(share, front.quota)
        if wanted <= 0:
            return Taken(records=0, bytes=0, more=share > 0)
        groups: list[int] = []
        have = 0
        while have < wanted:
            have += file.metadata.row_group(len(groups)).num_rows
            groups.append(len(groups))
        with pq.ParquetWriter(out, file.schema_arrow, compression=_compression(file)) as writer:
            group: list[pa.RecordBatch] = []
            for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
                group.append(batch.slice(0, wanted - front.records))
                front.records += group[-1].num_rows
                done = front.records == wanted
                if done or sum(rows.nbytes for rows in group) > MAX_GROUP:
                    writer.write_table(pa.Table.from_batches(group, schema=file.schema_arrow))
                    group = []
                if done:
                    break
    used = math.ceil(size * wanted / total)
    return Taken(records=wanted, bytes=used, more=wanted < share)


def _compression(file: Any) -> str:
    group = file.metadata.row_group(0)
    codec = group.column(0).compression.lower() if group.num_columns else "snappy"
    return "none" if codec == "uncompressed" else codec
