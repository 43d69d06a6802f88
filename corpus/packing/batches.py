"""A cleaned file in parts of bounded size, each packed alone into shards of its own.

    zh/00000.jsonl   ├── p0000 ──┼── p0001 ──┼─ p0002 ─┤     cut every `part_bytes` bytes

A part owns the lines that begin in its range of bytes, so nobody reads a file to find out where to
cut it. How files are cut depends on their bytes and `part_bytes` alone, never on how many workers
there are; a file that is not longer than a part is one part.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from common.errors import DataError

BATCH_BYTES = 4 * 1024**2
"""Lines that are encoded at once: small beside any memory, large beside the cost of a call."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Part:
    """A range of bytes of one cleaned file."""

    path: str
    """The cleaned file, <source>/<number>.jsonl."""
    shown: str
    """How messages name it."""
    number: int
    """Number of the part within the file, from 0."""
    count: int
    """Parts of the file."""
    start: int
    """First byte of the range."""
    end: int
    """First byte behind it."""

    @property
    def source(self) -> str:
        """The corpus."""
        return Path(self.path).parent.name

    @property
    def cleaned_file(self) -> str:
        """`<source>/<number>.jsonl`."""
        return f"{self.source}/{Path(self.path).name}"

    @property
    def name(self) -> str:
        """First part of its shards' names; no stem of a file begins with a p."""
        whole = f"{self.source}-{Path(self.path).stem}"
        return whole if self.count == 1 else f"{whole}-p{self.number:04d}"

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Texts of consecutive lines; empty ones are left out."""

    texts: list[str]
    """None of them empty."""
    positions: list[int]
    """The byte of the file behind each text's line."""
    end: int
    """The byte behind the batch's last line."""


def plan(files: Sequence[tuple[Path, str]], part_bytes: int) -> list[Part]:
    """Cut files into parts. An empty file has none.

    Args:
        files: each file and how messages name it.
        part_bytes: >= 1.
    """
    parts = []
    for path, shown in files:
        total = path.stat().st_size
        starts = range(0, total, part_bytes)
        parts += [
            Part(
                path=str(path),
                shown=shown,
                number=number,
                count=len(starts),
                start=start,
                end=min(start + part_bytes, total),
            )
            for number, start in enumerate(starts)
        ]
    return parts


def batches(part: Part, position: int = 0) -> Iterator[Batch]:
    """The texts of the lines that begin in the part, in batches of about BATCH_BYTES.

    A longer line is a batch of its own.

    Args:
        position: go on behind the line that ends at this byte; 0: from the part's beginning.

    Raises:
        DataError: a line is damaged; names the file and the line.
    """
    texts: list[str] = []
    positions: list[int] = []
    size = 0
    with Path(part.path).open("rb", buffering=_CHUNK) as file:
        at = _first_line(file, part.start) if position == 0 else file.seek(position)
        while at < part.end:
            line = file.readline()
            if texts and size + len(line) > BATCH_BYTES:
                yield Batch(texts=texts, positions=positions, end=at)
                texts, positions, size = [], [], 0
            text = _text(line, part, at)
            at += len(line)
            size += len(line)
            if text:
                texts.append(text)
                positions.append(at)
    if texts:
        yield Batch(texts=texts, positions=positions, end=at)


def _first_line(file: IO[bytes], start: int) -> int:
    """Go to the first line that begins at `start` or behind it."""
    if start == 0:
        return 0
    # A line that begins before the range belongs to the part before.
    file.seek(start - 1)
    return start - 1 + len(file.readline())


def _text(line: bytes, part: Part, at: int) -> str:
    try:
        text = orjson.loads(line)["text"]
        if isinstance(text, str):
            return text
    except (ValueError, KeyError, TypeError):
        pass
    return _explained(line, part, at)


def _explained(line: bytes, part: Part, at: int) -> str:
    """What `json` makes of a line that `orjson` refuses, or what is wrong with it."""
    try:
        text: Any = json.loads(line)["text"]
        if not isinstance(text, str):
            raise TypeError("text is no string")
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{_place(part, at)}: the text has half of a surrogate pair at character "
            f"{error.start}, which no tokenizer can read. Clean the source with fix_unicode_mapper"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{_place(part, at)}: not a line of {{"text": …}} ({error!r}). Run `clean` again'
        ) from None
    return text


def _place(part: Part, at: int) -> str:
    """File and line number of the line that begins at a byte."""
    number = 1
    with Path(part.path).open("rb") as file:
        while at > 0 and (chunk := file.read(min(_CHUNK, at))):
            number += chunk.count(b"\n")
            at -= len(chunk)
    return f"{part.shown}, line {number}"
