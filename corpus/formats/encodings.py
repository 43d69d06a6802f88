"""Text files of any encoding as streams of UTF-8 bytes: unpacked, detected and transcoded.

    disk ──.gz, .zst──▶ bytes ──GB18030, Big5, UTF-16──▶ UTF-8
                          └── UTF-8 (nearly all files) goes through untouched

The encoding is decided once for a file, by its first megabyte with bytes beyond ASCII, and by
majority: a UTF-8 file with damaged lines stays UTF-8. A file too short to tell is read as the
files beside it are (`Neighbours`). Bytes that the encoding does not know become halves of surrogate
pairs, which no UTF-8 decoder accepts: so they are noticed, and cost their character and not their
line or their document (`repaired_line`, `decode_document`).
"""

import codecs
import contextlib
import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import chardet
import pyarrow as pa

from corpus.chunk_reader import ChunkReader
from corpus.formats.legacy_chinese import (
    DETECTED_BY,
    decode_lines,
    is_chinese_utf16,
    isolated_share,
    likely,
    score,
)

CHUNK = 1 << 20

SEARCHED = 64 * CHUNK
"""A file with nothing but ASCII for so long is taken for UTF-8."""

UNKNOWN_AT_MOST = 0.15
"""Share of unknown characters up to which a file can be in an encoding."""

PACKED = (".gz", ".zst")
"""Endings of compressed files, which are unpacked while they are read."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A text encoding, as detected for a file."""

    name: str
    """Usual name: UTF-8, GB18030, Big5, Big5-HKSCS, UTF-16, UTF-32."""
    codec: str
    """Python's name of its codec."""
    doubt: str = ""
    """The detector's guess, for a file that is only read as UTF-8; else empty."""


UTF8 = Encoding(name="UTF-8", codec="utf-8")
GB18030 = Encoding(name="GB18030", codec="gb18030")  # also reads GB2312 and GBK
BIG5 = Encoding(name="Big5", codec="cp950")
BIG5_HKSCS = Encoding(name="Big5-HKSCS", codec="big5hkscs")
_BIG5_CODECS = (BIG5.codec, BIG5_HKSCS.codec)

_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, Encoding(name="UTF-32", codec="utf-32")),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, Encoding(name="UTF-32", codec="utf-32")),
    (codecs.BOM_UTF16_LE, Encoding(name="UTF-16", codec="utf-16")),
    (codecs.BOM_UTF16_BE, Encoding(name="UTF-16", codec="utf-16")),
)

GB_NAMES = ("gb2312", "gbk", "gb18030")
BIG5_NAMES = ("big5", "cp950", "big5hkscs")
"""Names that the detector has for them, in small letters and without hyphens."""

_DECLARED = re.compile(rb"""(?:encoding|charset)\s*=\s*["']?\s*([A-Za-z0-9_-]+)""")
"""Declaration of the encoding in XML and HTML."""


SHORT = 256
"""Bytes beyond ASCII below which a guess alone does not decide."""

ASKED = 64
"""Files that are looked into at most, to find out what the files of a folder are in."""


class Neighbours:
    """Encodings of the files of a corpus, for those that are too short to tell on their own.

    They are looked into when the first such file is read, not before.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = sorted(paths)
        self._found: dict[Path, Encoding | None] = {}

    def encoding(self, path: Path) -> Encoding | None:
        """Encoding of most of the files in a file's folder, else in all; None where none is."""
        for folder in (path.parent, None):
            if folder not in self._found:
                near = [p for p in self._paths if folder is None or p.parent == folder]
                self._found[folder or Path()] = self._most(near)  # type: ignore[index]
            if (found := self._found[folder or Path()]) is not None:
                return found
        return None

    @staticmethod
    def _most(paths: Sequence[Path]) -> Encoding | None:
        votes: Counter[Encoding] = Counter()
        for path in paths[:: max(1, len(paths) // ASKED)]:
            with contextlib.suppress(OSError), _unpacked(path) as (file, _):
                sample = sample_of(file)
                if isinstance(sample, bytes) and num_beyond_ascii(sample) >= SHORT // 4:
                    encoding = encoding_of_sample(sample)
                    votes[encoding] += not encoding.doubt
        ranked = votes.most_common(1)
        if not ranked or ranked[0][1] * 2 <= votes.total():
            return None
        return ranked[0][0]


@contextlib.contextmanager
def open_as_utf8(
    path: Path, neighbours: Neighbours | None = None
) -> Iterator[tuple[IO[bytes], IO[bytes], Encoding]]:
    """Open a file as UTF-8 bytes without byte order mark.

    Gives these bytes, the file on disk (its `tell` is the progress) and the file's encoding.
    `neighbours` are asked about a file that is too short to tell.
    """
    with _unpacked(path) as (file, _):
        encoding = detect_encoding(file, lambda: neighbours.encoding(path) if neighbours else None)
    with _unpacked(path) as (file, disk):
        if encoding.codec != "utf-8":
            file = _buffered(_transcoded(file, encoding.codec))
        elif peek(file).startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        yield file, disk, encoding


def data_suffix(path: Path) -> str:
    """Suffix of a file's content, without that of its compression: `.jsonl` of `x.jsonl.gz`."""
    if path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    return path.suffix.lower()


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Unpacked bytes, and the file on disk."""
    with path.open("rb", buffering=CHUNK) as disk:
        match path.suffix.lower():
            case ".gz":
                yield _buffered(_chunks(gzip.GzipFile(fileobj=disk).read1)), disk
            case ".zst":
                # Unlike the zstandard package it says when a file is cut off.
                stream = pa.CompressedInputStream(pa.PythonFile(disk, mode="r"), "zstd")
                yield _buffered(_chunks(stream.read)), disk
            case _:
                yield disk, disk


def _buffered(chunks: Iterator[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(ChunkReader(chunks), CHUNK))


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Small chunks of a decompressor: those before the place where it fails are given."""
    return iter(lambda: read(1 << 16), b"")


def peek(file: IO[bytes]) -> bytes:
    """Next bytes of a file, at least one unless it ends, without consuming them."""
    return cast("io.BufferedReader", file).peek(4)


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    """Replace bad bytes by half a surrogate pair and go on; a line end is never replaced."""
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    if error.encoding.startswith("utf") or b"\n" not in bad:
        return "\udcff", error.end
    return "\udcff", error.start + bad.index(b"\n")


codecs.register_error("steel.undecodable", _undecodable)


def _transcoded(source: IO[bytes], codec: str) -> Iterator[bytes]:
    """Bytes of another encoding as UTF-8, whole lines at a time where lines are not too long."""
    decoder = codecs.getincrementaldecoder(codec)("steel.undecodable")
    waiting = b""
    while data := cast("io.BufferedReader", source).read1(CHUNK):
        waiting += data
        if codec.startswith("utf"):
            end = len(waiting)
        elif not (end := waiting.rfind(b"\n") + 1) and len(waiting) < CHUNK:
            continue
        elif end:
            whole = decoder.getstate()[0] + waiting[:end]
            decoder.reset()
            yield decode_lines(whole, codec).encode("utf-8", "surrogatepass")
            waiting = waiting[end:]
            continue
        yield decoder.decode(waiting).encode("utf-8", "surrogatepass")
        waiting = b""
    if codec.startswith("utf"):
        yield decoder.decode(waiting, True).encode("utf-8", "surrogatepass")
    else:
        whole = decoder.getstate()[0] + waiting
        yield decode_lines(whole, codec).encode("utf-8", "surrogatepass")


def detect_encoding(
    file: IO[bytes], near: Callable[[], Encoding | None] = lambda: None
) -> Encoding:
    """Detect the encoding of a file, reading it from its beginning.

    near: gives the encoding of the files beside it; called only where it is too short to tell.
    """
    sample = sample_of(file)
    if isinstance(sample, Encoding):
        return sample
    encoding = encoding_of_sample(sample)
    if sample.isascii() or not (encoding.doubt or num_beyond_ascii(sample) < SHORT):
        return encoding
    beside = near()
    if beside is None or beside == encoding or beside.codec not in (GB18030.codec, *_BIG5_CODECS):
        return encoding
    return beside if _fits(sample, beside, encoding) else encoding


def _fits(sample: bytes, beside: Encoding, guess: Encoding) -> bool:
    """True if a short sample reads well in its neighbours' encoding, and not better in another."""
    if isolated_share(sample) >= 0.1 or "\ufffd" in sample.decode(beside.codec, "replace"):
        return False
    mine = score(sample, beside.codec)
    if guess.codec != "utf-8":
        return mine >= score(sample, guess.codec) - 0.2
    text = sample.decode("utf-8", "replace")
    if text.count("\ufffd") > 1:
        return mine >= 0.2  # no UTF-8 anyway: rare hanzi will do
    # GB18030 may be UTF-8 of two bytes a character by accident; three bytes are no accident.
    return mine >= 0.5 and not any("\u0800" <= char < "\ufffd" for char in text)


def num_beyond_ascii(sample: bytes) -> int:
    """Number of bytes that are not ASCII."""
    return len(sample) - len(sample.decode("ascii", "ignore"))


def sample_of(file: IO[bytes]) -> bytes | Encoding:
    """First block of a file with bytes beyond ASCII, or the encoding that its mark states."""
    sample, searched = b"", 0
    try:
        while (block := file.read(CHUNK)) and searched < SEARCHED:
            if not searched:
                for mark, encoding in _MARKS:
                    if block.startswith(mark):
                        return encoding
            searched += len(block)
            if not block.isascii() or b"\0" in block:
                sample = block
                break
    except Exception:  # the error comes again, and is reported, when the file is read
        return UTF8
    return sample


def encoding_of_sample(sample: bytes) -> Encoding:
    """Detect the encoding of a piece of text, which may end within a character."""
    as_utf8 = sample.decode("utf-8", "replace")
    bad = as_utf8.count("\ufffd")
    if unmarked := _utf16_without_mark(sample):
        return unmarked
    if bad <= 1:
        return UTF8
    good = sum(char > "\x7f" for char in as_utf8) - bad
    # Hanzi in GB18030 or Big5 look like UTF-8 at times: good / bad is 0.12 to 0.28 on real rows.
    if good > bad // 2:
        return UTF8
    guess = _guess(sample)
    if guess not in (*GB_NAMES, *BIG5_NAMES) and (declared := _DECLARED.search(sample[:2048])):
        guess = _plain_name(declared[1].decode())  # a page of few words
    if guess not in (*GB_NAMES, *BIG5_NAMES):
        # One sequence that the detector does not know is enough for it to give up.
        codec = GB18030.codec if _unknown_share(sample, "gbk") < UNKNOWN_AT_MOST else BIG5.codec
        guess = _guess(sample.decode(codec, "ignore").encode(codec)) or guess
    # GB18030 has a character for almost any pair of bytes, so GBK is asked in its place: on real
    # rows it lacks at most 0.5 % of GB18030's characters and at least 29 % of Big5's.
    gb = _unknown_share(sample, "gbk")
    big5, hkscs = _unknown_share(sample, BIG5.codec), _unknown_share(sample, BIG5_HKSCS.codec)
    if guess in GB_NAMES and gb < UNKNOWN_AT_MOST:
        return GB18030
    if guess in (*GB_NAMES, *BIG5_NAMES) and min(big5, hkscs) < UNKNOWN_AT_MOST:
        return BIG5_HKSCS if hkscs < big5 else BIG5
    # The detector knows no short texts: the characters themselves speak for an encoding.
    for codec in ("utf-16-le", "utf-16-be"):
        if is_chinese_utf16(sample, codec):
            return Encoding(name="UTF-16", codec=codec)
    match likely(sample[:DETECTED_BY], (GB18030.codec, BIG5.codec)):
        case GB18030.codec:
            return GB18030
        case BIG5.codec:
            return BIG5
    return Encoding(name="UTF-8", codec="utf-8", doubt=guess or "no known encoding")


def _utf16_without_mark(sample: bytes) -> Encoding | None:
    """UTF-16 of a sample without byte order mark: ASCII in it has a zero in every second byte."""
    zeros = (sample[0::2].count(0), sample[1::2].count(0))
    if not any(zeros) or min(zeros) * 20 > max(zeros) or max(zeros) * 100 < len(sample):
        return None
    codec = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return Encoding(name="UTF-16", codec=codec) if is_chinese_utf16(sample, codec) else None


def _unknown_share(sample: bytes, codec: str) -> float:
    """Share of the characters beyond ASCII that a codec does not know."""
    text = sample.decode(codec, "replace")
    return text.count("\ufffd") / max(1, sum(char > "\x7f" for char in text))


def _guess(sample: bytes) -> str:
    """The detector's name for a sample; empty when it has none."""
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    given = b"\n".join(lines)[:DETECTED_BY]
    return _plain_name(str(chardet.detect(given)["encoding"] or ""))


def _plain_name(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@contextlib.contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is no text, unpacked."""
    with _unpacked(path) as (file, _):
        yield file


@contextlib.contextmanager
def open_unpacked(
    path: Path, neighbours: Neighbours | None = None
) -> Iterator[tuple[IO[bytes], Encoding]]:
    """Open a file as its own bytes, unpacked; with its encoding."""
    with _unpacked(path) as (file, _):
        encoding = detect_encoding(file, lambda: neighbours.encoding(path) if neighbours else None)
    with _unpacked(path) as (file, _):
        yield file, encoding
