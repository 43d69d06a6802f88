"""GB18030 and Big5 told apart in short texts, and text decoded past bytes that are damaged.

Both encodings put the characters that people write into a first level of their tables: a text that
was decoded rightly is nearly all of the first level, one that was decoded wrongly is not.

    first level: GB 2312 3,755 hanzi at B0A1 to D7F9 · Big5 5,401 hanzi at A440 to C67E

Of text with damaged bytes only their characters are lost; U+FFFD (`LOST`) stands in their place. A
line that was appended in another Chinese encoding than that of its file is read in its own.

    a line of a stream    repaired_line      rows, JSON lines, lines of a text
    a whole document      decode_document    novels, pages
    a part of a stream    decode_block       novels too long to be read whole
"""

import codecs
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corpus.formats.encodings import Encoding

FREQUENT = frozenset(
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可"
    "她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三"
    "已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女"
    "问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由"
    "却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路"
    "這來個國說們為時後會對過還發從動兩長樣現將與進實問機給業間麼東無開學經頭點聲話兒"
)
"""Characters that are about half of what any Chinese text is made of."""

MIN_SCORE = 0.75
"""Score from which a text is taken for one of an encoding; real rows reach 0.9 and more, other
languages and the wrong one of the two stay below 0.6."""

GB18030, BIG5 = "gb18030", "cp950"
"""Codecs."""

DETECTED_BY = 16 * 1024
"""Bytes that are looked at: enough for certainty, and it is slow."""

SURE = 0.85
"""Score of a text with many frequent characters."""

MARGIN = 0.15
"""Lead over the other encoding that is needed, too."""

_SIGNS = frozenset("，。、；：？！“”‘’（）《》〈〉「」『』【】…—·～　％＋－／＝")


def score(sample: bytes, codec: str) -> float:
    """Share of the characters beyond ASCII that a text of this encoding would have; 0 to 1.

    Hanzi of the first level count 1 where they are frequent, 0.8 otherwise; kana, full-width signs
    and letters 0.8; rare hanzi 0.2; all else, and what cannot be decoded, nothing. 1 is a text all
    of frequent characters.
    """
    points = count = 0.0
    for char in sample.decode(codec, "replace"):
        if char <= "\x7f":
            continue
        count += 1
        points += _points(char, codec)
    return points / count if count else 0.0


def _points(char: str, codec: str) -> float:
    if char in FREQUENT or char in _SIGNS:
        return 1.0
    code = ord(char)
    if 0x4E00 <= code <= 0x9FFF:
        return 0.8 if _first_level(char, codec) else 0.2
    return 0.8 if 0x3040 <= code <= 0x30FF or 0xFF01 <= code <= 0xFF5E else 0.0


def _first_level(char: str, codec: str) -> bool:
    encoded = char.encode(codec, "ignore")
    if len(encoded) != 2:
        return False
    if codec.startswith("gb"):
        return 0xB0 <= encoded[0] <= 0xD7 and encoded[1] >= 0xA1
    return 0xA4 <= encoded[0] <= 0xC6


def likely(sample: bytes, codecs: Sequence[str]) -> str:
    """The codec of these that a sample of Chinese is in; empty where none stands out."""
    ranked = sorted(((score(sample, codec), codec) for codec in codecs), reverse=True)
    best, codec = ranked[0]
    others = [value for value, _ in ranked[1:]]
    if best < MIN_SCORE or (others and best - max(others) < MARGIN):
        return ""
    isolated = isolated_share(sample)
    # The second byte of a third of Big5's characters is ASCII; accents are no frequent characters.
    return codec if isolated < 0.1 or (codec == BIG5 and best >= SURE and isolated < 0.5) else ""


def isolated_share(sample: bytes) -> float:
    """Share of the bytes beyond ASCII that stand alone, as accents do in European languages."""
    alone = beyond = 0
    before = False
    for number, byte in enumerate(sample):
        high = byte >= 0x80
        beyond += high
        after = number + 1 < len(sample) and sample[number + 1] >= 0x80
        alone += high and not before and not after
        before = high
    return alone / beyond if beyond else 0.0


def is_chinese_utf16(sample: bytes, codec: str) -> bool:
    """True for a sample that reads as Chinese in UTF-16 of this byte order; short ones never do."""
    text = sample[: len(sample) // 2 * 2].decode(codec, "replace")[:8192]
    strange = sum((char < " " and char not in "\t\r\n") or char == LOST for char in text)
    known = sum(char < "\x7f" or char in FREQUENT or char in _SIGNS for char in text)
    hanzi = sum("\u4e00" <= char < "\ua000" for char in text)
    return (
        len(text) >= 8
        and strange * 100 <= len(text)
        and known * 3 >= len(text)
        and ((known + hanzi) * 10 >= len(text) * 8)
    )


# ── past damage ──────────────────────────────────────────────────────────────────────────────────

LOST = "\ufffd"
"""Character that stands for bytes that are damaged."""

_SKIP, _RARE, _OTHER = 12, 4, 6
"""Costs of leaving out a byte, of a rare hanzi, and of a character that is none."""

MAX_REPAIRED = 1 << 16
"""Bytes of a damaged line in which the characters are looked for anew."""


def decode_damaged(line: bytes, codec: str) -> tuple[str, int]:
    """Decode a line with damaged bytes: (text with LOST in their place, bytes left out).

    One byte too few shifts all pairs behind it, which then are hanzi, but not those that were
    written. So the cheapest reading is taken of all that leave out single bytes: of frequent
    characters, with as few bytes left out as possible. Linear in the line.
    """
    if len(line) > MAX_REPAIRED:
        text = line.decode(codec, "replace")
        return text, text.count(LOST)
    size = len(line)
    infinite = 1 << 60
    cost = [0] + [infinite] * size
    step = [0] * (size + 1)
    chars = [""] * (size + 1)
    for at in range(size):
        here = cost[at]
        if here == infinite:
            continue
        for length, char, price in _readings(line, at, codec):
            if here + price < cost[at + length]:
                cost[at + length] = here + price
                step[at + length], chars[at + length] = length, char
    pieces, at = [], size
    while at:
        pieces.append(chars[at])
        at -= step[at]
    read: list[str] = []
    lost = 0
    for piece in reversed(pieces):
        if piece:
            read.append(piece)
        else:
            lost += 1
            if not read or read[-1] != LOST:
                read.append(LOST)
    return "".join(read), lost


def _readings(line: bytes, at: int, codec: str) -> list[tuple[int, str, int]]:
    """(bytes, character, cost) of what may stand at a place; no character: a byte left out."""
    if line[at] < 0x80:
        return [(1, chr(line[at]), 0)]
    found = [(1, "", _SKIP)]
    for length in (2, 4) if codec.startswith("gb") else (2,):
        piece = line[at : at + length]
        if len(piece) < length:
            break
        try:
            char = piece.decode(codec)
        except UnicodeDecodeError:
            continue
        if len(char) == 1:
            points = _points(char, codec)
            price = 0 if points == 1 else 1 if points == 0.8 else _RARE if points else _OTHER
            found.append((length, char, price))
    return found


def decode_lines(data: bytes, codec: str) -> str:
    """Lines of GB18030 or Big5 as text, halves of surrogate pairs for what is damaged."""
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode(codec)
    lines = []
    for line in data.split(b"\n"):
        try:
            lines.append(line.decode(codec))
        except UnicodeDecodeError:
            lines.append(decode_damaged(line, codec)[0].replace(LOST, "\udcff"))
    return "\n".join(lines)


MAX_LOST_OF_ROW = 0.01
"""Damaged places per byte of a line or row that is kept; of a file that looks like another encoding
than those that are read here, a twentieth of it."""

_HALF = "\udcff".encode("utf-8", "surrogatepass")


def repaired_line(line: bytes, encoding: "Encoding") -> tuple[str, int] | None:
    """A line of `open_as_utf8` that is not UTF-8, as (text, places where `LOST` stands).

    A line in another Chinese encoding than that of its file is read in its own. None where more of
    it is damaged than `MAX_LOST_OF_ROW`.
    """
    if encoding.codec == "utf-8":
        if codec := likely(line[:DETECTED_BY], (GB18030, BIG5)):
            with contextlib.suppress(UnicodeDecodeError):
                return line.decode(codec), 0
        text = line.decode("utf-8", "replace")
    else:
        text = line.replace(_HALF, LOST.encode()).decode("utf-8", "replace")
    lost = text.count(LOST) - line.count(LOST.encode())
    most = MAX_LOST_OF_ROW * len(line)
    return (text, lost) if lost <= (most / 20 if encoding.doubt else most) else None


def decode_document(data: bytes, encoding: "Encoding") -> tuple[str, int]:
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
    if other := likely(line[:DETECTED_BY], (GB18030, BIG5)):
        with contextlib.suppress(UnicodeDecodeError):
            return line.decode(other), 0
    text = line.decode("utf-8", "replace")
    return text, text.count(LOST) - line.count(LOST.encode())


def decode_block(data: bytes, encoding: "Encoding") -> tuple[str, int]:
    """Whole lines of `open_as_utf8` as text, and the damaged places in it."""
    if encoding.codec == "utf-8":
        return decode_document(data, encoding)
    return data.replace(_HALF, LOST.encode()).decode("utf-8", "replace"), data.count(_HALF)
