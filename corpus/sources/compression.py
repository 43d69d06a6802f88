"""Archives and compressed files: their type by name, and decompression with bounded memory.

.zip .tar .tar.gz .tgz .tar.zst .tar.bz2 .tar.xz     containers: become a folder
.gz .zst                                             single streams: become a file
"""

import bz2
import lzma
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import zstandard

from corpus.chunk_reader import ChunkReader

MEMORY_LIMIT = 256 * 1024**2
"""Bytes that a decompressor may ask for (xz dictionary, zstd window)."""

OUTPUT_BYTES = 1 << 16
"""Most bytes that one step of a decompressor gives."""

INPUT_BYTES = 1 << 14
"""Compressed bytes given to a decompressor at a time."""

INPUT_BYTES_ZSTD = 1 << 10
"""The same for zstd, which has no limit for its output: at most 44 MB for this much input."""

DECOMPRESSION_ERRORS = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    ValueError,
    OSError,
)
"""Errors that reading a damaged stream may raise."""


@dataclass(frozen=True, kw_only=True)
class ArchiveType:
    """Type of an archive or of a single compressed file."""

    suffix: str
    """Suffix of its name."""
    is_container: bool
    """True for an archive of files, False for one compressed stream."""
    codec: str
    """Compression: `gz`, `zst`, `bz2`, `xz`, or empty for none (and for zip's own)."""


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


def archive_type(name: str, *, streams: bool) -> ArchiveType | None:
    """Type of a file by its name; None for one that is neither archive nor compressed.

    Args:
        name: its name.
        streams: if true, single `.gz` and `.zst` files count too (corpora).
    """
    lower = name.lower()
    for suffix, codec in _SUFFIXES.items():
        stem = lower.removesuffix(suffix).rpartition("/")[2]
        if lower.endswith(suffix) and stem:
            is_container = suffix not in _STREAMS
            if is_container or streams:
                return ArchiveType(suffix=suffix, is_container=is_container, codec=codec)
            return None
    return None


def unpacked_name(name: str, *, streams: bool) -> str:
    """Name of the file or folder that a file becomes: without the suffix of its type."""
    packed = archive_type(name, streams=streams)
    return name[: -len(packed.suffix)] if packed else name


class DecompressingReader(ChunkReader):
    """Reader of a compressed stream, which may consist of several members one after the other.

    Raises one of `DECOMPRESSION_ERRORS` where it is damaged; EOFError where it is cut off.
    """

    def __init__(
        self,
        raw: IO[bytes],
        codec: str,
        *,
        on_output: Callable[[int], None] = lambda _: None,
        track_position: bool = False,
    ) -> None:
        """
        Args:
            raw: the compressed bytes.
            codec: `gz`, `zst`, `bz2` or `xz`.
            on_output: called with the number of bytes that each step has given; may raise.
            track_position: if true, `compressed_position` can be called.
        """
        super().__init__(iter(self._step, b""))
        self._raw, self._codec, self._on_output = raw, codec, on_output
        self._decoder: Any = None
        self._pending = b""
        self._bytes_in = self._bytes_out = 0
        self._points: deque[tuple[int, int]] | None = deque([(0, 0)]) if track_position else None

    def compressed_position(self, offset: int) -> float:
        """About how many compressed bytes the first `offset` unpacked bytes take.

        Call it with growing offsets, none beyond what was read.
        """
        assert self._points is not None, "made without `track_position`"
        while len(self._points) > 1 and self._points[1][0] <= offset:
            self._points.popleft()
        out_bytes, in_bytes = self._points[0]
        if len(self._points) == 1:
            return in_bytes
        next_out, next_in = self._points[1]
        return in_bytes + (next_in - in_bytes) * (offset - out_bytes) / (next_out - out_bytes)

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
                self._bytes_out += len(out)
                self._on_output(len(out))
                if self._points is not None:
                    self._points.append((self._bytes_out, self._bytes_in - len(self._pending)))
                return out

    def _decode(self) -> bytes:
        decoder = self._decoder
        needs_input = getattr(decoder, "needs_input", True)
        at_end = needs_input and not self._pending and not self._feed()
        if self._codec == "zst":
            out: bytes = decoder.decompress(self._pending)
            self._pending = b""
        else:
            out = decoder.decompress(self._pending, OUTPUT_BYTES)
            self._pending = getattr(decoder, "unconsumed_tail", b"")
        if decoder.eof:
            self._pending, self._decoder = decoder.unused_data, None
        elif at_end and not out:
            raise EOFError("it ends in the middle")
        return out

    def _feed(self) -> bool:
        self._pending = self._raw.read(INPUT_BYTES_ZSTD if self._codec == "zst" else INPUT_BYTES)
        self._bytes_in += len(self._pending)
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
