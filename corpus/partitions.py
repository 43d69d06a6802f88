"""A corpus in partitions of bounded size, each worked on alone and finished for good.

    zh.jsonl   ├── 00000 ──┼── 00001 ──┼─ 00002 ─┤     cut every `partition_bytes` bytes

A partition owns the lines that begin in its range of bytes, so no file has to be read to find out
where to cut it. How a file is cut depends on its bytes and `partition_bytes` alone, never on how
many workers there are.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A range of bytes of one JSON-lines file."""

    source: str
    """Corpus."""
    path: str
    """The file."""
    number: int
    """Number within the file, from 0."""
    count: int
    """Partitions of the file."""
    start: int
    """First byte of the range."""
    end: int
    """First byte behind it."""

    @property
    def name(self) -> str:
        """`<source>-<number>`: names its results where every source is one file."""
        return f"{self.source}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.end - self.start

    def lines(self, position: int = 0) -> Iterator[tuple[int, bytes]]:
        """The lines that begin in the range, each with the byte of the file that it begins at.

        Args:
            position: go on behind the line that ends at this byte; 0: from the beginning.
        """
        with Path(self.path).open("rb", buffering=1 << 20) as file:
            at = position or self.start
            if at and not position:
                # A line that begins before the range belongs to the partition before.
                file.seek(at - 1)
                at += len(file.readline()) - 1
            file.seek(at)
            while at < self.end and (line := file.readline()):
                yield at, line
                at += len(line)

    def documents(self) -> Iterator[dict[str, Any]]:
        """The documents on those lines."""
        return (json.loads(line) for _, line in self.lines())


def cut(files: Iterable[tuple[str, str | Path]], partition_bytes: int) -> list[Partition]:
    """Cut files, each given with its source, into partitions; an empty file is one, and empty."""
    partitions = []
    for source, path in files:
        total = Path(path).stat().st_size
        starts = range(0, max(total, 1), partition_bytes)
        partitions += [
            Partition(
                source=source,
                path=str(path),
                number=number,
                count=len(starts),
                start=start,
                end=min(start + partition_bytes, total),
            )
            for number, start in enumerate(starts)
        ]
    return partitions
