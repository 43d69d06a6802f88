"""A corpus in pieces of bounded size, each worked on alone and finished for good.

    <source>.jsonl  ├── 00000 ──┼── 00001 ──┼── 00002 ──┤     cut every `size` bytes

A partition owns the lines that begin in its range of bytes, so nobody reads a file to find out
where to cut it. How a corpus is cut depends on its bytes and `size` alone, never on how many
workers there are.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A piece of one source."""

    source: str
    """Corpus."""
    path: str
    """Its normalised file."""
    number: int
    """Number within the source, from 0."""
    start: int
    """First byte of the range."""
    end: int
    """First byte behind it."""

    @property
    def name(self) -> str:
        """`<source>-<number>`: names its files."""
        return f"{self.source}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.end - self.start

    def lines(self) -> Iterator[bytes]:
        """The lines that begin in the range."""
        with Path(self.path).open("rb") as file:
            position = self.start
            if position:
                # A line that begins before the range belongs to the partition before.
                file.seek(position - 1)
                position += len(file.readline()) - 1
            while position < self.end:
                line = file.readline()
                if not line:
                    return
                position += len(line)
                yield line

    def documents(self) -> Iterator[dict[str, Any]]:
        """The normalised documents."""
        return (json.loads(line) for line in self.lines())


def plan(inputs: Mapping[str, str], size: int) -> list[Partition]:
    """Cut every source's file into ranges of `size` bytes; an empty file is one empty partition."""
    return [
        Partition(
            source=source, path=path, number=number, start=start, end=min(start + size, total)
        )
        for source, path in inputs.items()
        for total in [Path(path).stat().st_size]
        for number, start in enumerate(range(0, max(total, 1), size))
    ]
