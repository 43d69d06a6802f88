"""Text with damaged bytes, of which only the damaged characters are lost.

    a line of a stream    repaired_line      rows, JSON lines, lines of a text
    a whole document      decode_document    novels, pages
    a part of a stream    decode_block       novels too long to be read whole

U+FFFD (`LOST`) stands in the place of what is lost. A line that was appended in another Chinese
encoding than that of its file is read in its own.
"""

import codecs
import contextlib

from corpus.formats.encodings import BIG5, DETECTED_BY, GB18030, Encoding
from corpus.formats.legacy_chinese import LOST, decode_damaged, likely

MAX_LOST_OF_ROW = 0.01
"""Damaged places per byte of a line or row that is kept; of a file that looks like another encoding
than those that are read here, a twentieth of it."""

_HALF = "\udcff".encode("utf-8", "surrogatepass")


def repaired_line(line: bytes, encoding: Encoding) -> tuple[str, int] | None:
    """A line of `open_as_utf8` that is not UTF-8, as (text, places where `LOST` stands).

    A line in another Chinese encoding than that of its file is read in its own. None where more of
    it is damaged than `MAX_LOST_OF_ROW`.
    """
    if encoding.codec == "utf-8":
        if codec := likely(line[:DETECTED_BY], (GB18030.codec, BIG5.codec)):
            with contextlib.suppress(UnicodeDecodeError):
                return line.decode(codec), 0
        text = line.decode("utf-8", "replace")
    else:
        text = line.replace(_HALF, LOST.encode()).decode("utf-8", "replace")
    lost = text.count(LOST) - line.count(LOST.encode())
    most = MAX_LOST_OF_ROW * len(line)
    return (text, lost) if lost <= (most / 20 if encoding.doubt else most) else None


def decode_document(data: bytes, encoding: Encoding) -> tuple[str, int]:
    """A whole document as text: (text, bytes that are not of its encoding and were left out).

    In the place of such bytes stands `LOST`; all around them is kept. In GB18030 and Big5 a line
    with such a byte is read anew, since all characters behind it may be shifted.
    """
    data = data.removeprefix(codecs.BOM_UTF8) if encoding.codec == "utf-8" else data
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode(encoding.codec), 0
    if encoding.codec.startswith(("utf-16", "utf-32")):
        text = data.decode(encoding.codec, "replace")
        return text, text.count(LOST) - data.count(LOST.encode(encoding.codec))
    lines, lost = [], 0
    for line in data.split(b"\n"):
        try:
            lines.append(line.decode(encoding.codec))
        except UnicodeDecodeError:
            text, count = _decode_any(line, encoding.codec)
            lines.append(text)
            lost += count
    return "\n".join(lines), lost


def _decode_any(line: bytes, codec: str) -> tuple[str, int]:
    """A damaged line of a document; in UTF-8 one that was appended in another encoding, too."""
    if codec != "utf-8":
        return decode_damaged(line, codec)
    if other := likely(line[:DETECTED_BY], (GB18030.codec, BIG5.codec)):
        with contextlib.suppress(UnicodeDecodeError):
            return line.decode(other), 0
    text = line.decode("utf-8", "replace")
    return text, text.count(LOST) - line.count(LOST.encode())


def decode_block(data: bytes, encoding: Encoding) -> tuple[str, int]:
    """Whole lines of `open_as_utf8` as text, and the damaged places in it."""
    if encoding.codec == "utf-8":
        return decode_document(data, encoding)
    return data.replace(_HALF, LOST.encode()).decode("utf-8", "replace"), data.count(_HALF)
