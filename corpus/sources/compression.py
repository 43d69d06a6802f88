"""What is packed, judged by its name, and compressed streams read with bounded memory.

.zip .tar .tar.gz .tgz .tar.zst .tar.bz2 .tar.xz     containers: become a folder
.gz .zst                                             single streams: become a file
"""

import bz2
import io
import lzma
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import zstandard

MEMORY_LIMIT = 256 * 1024**2
"""Bytes that a decompressor may ask for (xz dictionary, zstd window)."""

OUT = 1 << 16
"""Most bytes that one step unpacks."""

FEED = 1 << 14
"""Compressed bytes given to a decompressor at a time."""

FEED_ZSTD = 1 << 10
"""The same for zstd, which cannot be told how much to give: at most 44 MB for this much."""

ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, ValueError, OSError)
"""What reading a damaged stream may raise."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a file is packed."""

    suffix: str
    """The part of the name that says so."""
    container: bool
    """Whether it holds files, and not one stream."""
    codec: str
    """`gz`, `zst`, `bz2`, `xz`, or empty for none."""


_SUFFIXES = {
    ".zip": "",
    ".tar": "",
    ".tar.gz": "gz",
    ".tgz": "gz",
    ".tar.zst": "zst",
    ".tzst": "zst",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
    ".gz": "gz",
    ".zst": "zst",
}
_STREAMS = (".gz", ".zst")


def packing(name: str, *, streams: bool) -> Packing | None:
    """How a file of this name is packed; None when it is not.

    Args:
        name: its name.
        streams: whether single streams count too (corpora), or are left as they are.
    """
    lower = name.lower()
    for suffix, codec in _SUFFIXES.items():
        stem = lower.removesuffix(suffix).rpartition("/")[2]
        if lower.endswith(suffix) and stem:
            container = suffix not in _STREAMS
            if container or streams:
                return Packing(suffix=suffix, container=container, codec=codec)
            return None
    return None


def unpacked_name(name: str, *, streams: bool) -> str:
    """The file or folder that a file becomes: its name without the suffix of its packing."""
    packed = packing(name, streams=streams)
    return name[: -len(packed.suffix)] if packed else name


class Decompressed(io.RawIOBase):
    """A compressed stream, unpacked while it is read. Members one after the other are joined.

    Raises one of `ERRORS` where it is damaged; EOFError where it is cut off.
    """

    def __init__(
        self,
        raw: IO[bytes],
        codec: str,
        *,
        spend: Callable[[int], None] = lambda _: None,
        tracked: bool = False,
    ) -> None:
        """
        Args:
            raw: the compressed bytes.
            codec: `gz`, `zst`, `bz2` or `xz`.
            spend: called with the number of bytes that each step has unpacked; may raise.
            tracked: whether `position` will be asked.
        """
        super().__init__()
        self._raw, self._codec, self._spend = raw, codec, spend
        self._decoder: Any = None
        self._pending = b""
        self._fed = self._made = 0
        self._ready = memoryview(b"")
        self._points: deque[tuple[int, int]] | None = deque([(0, 0)]) if tracked else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready:
            self._ready = memoryview(self._step())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def position(self, offset: int) -> float:
        """About how many compressed bytes the first `offset` unpacked bytes take.

        Ask with growing offsets, none beyond what was read.
        """
        assert self._points is not None, "made without `tracked`"
        while len(self._points) > 1 and self._points[1][0] <= offset:
            self._points.popleft()
        made, fed = self._points[0]
        if len(self._points) == 1:
            return fed
        next_made, next_fed = self._points[1]
        return fed + (next_fed - fed) * (offset - made) / (next_made - made)

    def _step(self) -> bytes:
        """Some more unpacked bytes; none at the end."""
        while True:
            if self._decoder is None:
                if self._codec == "gz":
                    self._pending = self._pending.lstrip(b"\0")  # padding between members
                if not self._pending and not self._feed():
                    return b""
                if self._codec == "gz" and not self._pending.strip(b"\0"):
                    continue
                self._decoder = _decoder(self._codec)
            out = self._decode()
            if out:
                self._made += len(out)
                self._spend(len(out))
                if self._points is not None:
                    self._points.append((self._made, self._fed - len(self._pending)))
                return out

    def _decode(self) -> bytes:
        decoder = self._decoder
        hungry = getattr(decoder, "needs_input", True)
        starved = hungry and not self._pending and not self._feed()
        if self._codec == "zst":
            out: bytes = decoder.decompress(self._pending)
            self._pending = b""
        else:
            out = decoder.decompress(self._pending, OUT)
            self._pending = getattr(decoder, "unconsumed_tail", b"")
        if decoder.eof:
            self._pending, self._decoder = decoder.unused_data, None
        elif starved and not out:
            raise EOFError("it ends in the middle")
        return out

    def _feed(self) -> bool:
        self._pending = self._raw.read(FEED_ZSTD if self._codec == "zst" else FEED)
        self._fed += len(self._pending)
        return bool(self._pending)


def _decoder(codec: str) -> Any:
    match codec:
        case "gz":
            return zlib.decompressobj(31)
        case "bz2":
            return bz2.BZ2Decompressor()
        case "xz":
            return lzma.LZMADecompressor(memlimit=MEMORY_LIMIT)
        case "zst":
            return zstandard.ZstdDecompressor(max_window_size=MEMORY_LIMIT).decompressobj()
    raise AssertionError(codec)
