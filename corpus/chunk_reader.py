"""A readable stream made of chunks of bytes, for decoders that give their output piece by piece."""

import io
from collections.abc import Iterator
from typing import Any


class ChunkReader(io.RawIOBase):
    """The chunks of an iterator, one after the other; the end of the iterator is the end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and (chunk := next(self._chunks, None)) is not None:
            self._ready = memoryview(chunk)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
