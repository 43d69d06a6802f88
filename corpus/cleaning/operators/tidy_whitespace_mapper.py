"""Blanks, invisible characters and characters without meaning: tidied where nothing is lost.

Data-Juicer's `whitespace_normalization_mapper` makes each of 30 characters a blank: the tab of a
Makefile or table, the joiner within an emoji (a family falls apart) or a Persian word; and the
first line loses its indentation. Here, character by character:

    tab, blank, line break       stay: they carry structure (Makefile, TSV, columns)
    blanks that end a line       go, but for fenced code and the empty cells of a table's row
    blank lines                  two at most, outside of fenced code; none at the ends
    full-width indentation       goes, unless the lines of a text have different indents
    no-break, thin, en … blanks  become a blank: width is typography
    form feed, line separators   become line breaks
    zero-width joiners           stay in emoji and in Arabic, Indic, Mongolian spelling; else go
    zero-width space             stays in Thai, Lao, Burmese, Khmer, Tibetan: it ends words there
    variation selectors          stay behind emoji and symbols; stray ones, and shapes of glyphs, go
    tag characters               stay in the flags of England and others; else they are hidden text
    direction marks, isolates    stay in lines with Hebrew, Arabic, …; else they order nothing
    direction overrides, other control and format characters, soft hyphens, noncharacters: go
    U+E5E5, U+E7C7 to U+E864 …   become the character that GBK and GB 18030 put there
    Symbol and Wingdings         become •, ▪, ➢, ✓: the lists of Word
    other private use            becomes □ between Chinese characters, else goes (icons)
    U+FFFD                       becomes □, Chinese print's sign for a lost character; don?t: don't
"""

import bisect
import functools
import re
from collections.abc import Callable

import regex
from data_juicer.ops.base_op import OPERATORS, Mapper

MAX_BLANK_LINES = 2
LOST = "□"

ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u061c\u115f\u1160\u1680\u180b-\u180e\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3164\ue000-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\U0001d173-\U0001d17a\U0001fffe\U0001ffff\U0002fffe\U0002ffff\U0003fffe-\U0010ffff]"
)
"""Every character that may change. Most texts have none, and are not looked at twice."""
LOST_IN_DECODING = re.compile("[\x80-\x9f\ufffd\ue000-\uf8ff]")
ESCAPE = regex.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""Colours and cursor movements of terminals."""

BLANK = frozenset("\xa0\u1680\u202f\u205f" + "".join(map(chr, range(0x2000, 0x200B))))
LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069")
"""Direction marks, embeddings and isolates; not the overrides, which turn letters round."""
RIGHT_TO_LEFT = regex.compile(
    r"[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]"
)
JOINED = regex.compile(
    r"[\p{scx=Arabic}\p{scx=Syriac}\p{scx=Nko}\p{scx=Mongolian}\p{scx=Devanagari}\p{scx=Bengali}"
    r"\p{scx=Gurmukhi}\p{scx=Gujarati}\p{scx=Oriya}\p{scx=Tamil}\p{scx=Telugu}\p{scx=Kannada}"
    r"\p{scx=Malayalam}\p{scx=Sinhala}\p{scx=Tibetan}\p{scx=Myanmar}\p{scx=Khmer}\p{scx=Thai}"
    r"\p{scx=Lao}\p{scx=Newa}\p{scx=Balinese}\p{scx=Javanese}]"
)
"""Scripts that spell with joiners."""
UNSPACED = regex.compile(
    r"[\p{Script=Thai}\p{Script=Lao}\p{Script=Myanmar}\p{Script=Khmer}\p{Script=Tibetan}]"
)
"""Scripts whose words a zero-width space parts."""
EMOJI_PART = regex.compile(r"[\p{Extended_Pictographic}\U0001f3fb-\U0001f3ff\ufe0f\U000e007f]")
EMOJI = regex.compile(r"\p{Extended_Pictographic}")
EMOJI_OR_FLAG = regex.compile(r"[\p{Emoji}--0-9#*]", regex.V1)
SELECTED = regex.compile(r"[\p{S}\p{P}\p{Script=Mongolian}\p{Script=Myanmar}\p{Script=Phags_Pa}]")
"""Characters whose shape a variation selector chooses with a meaning."""
FLAG = regex.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f")
HAN = regex.compile(r"[\p{Script=Han}\u3000-\u303f\uff00-\uff60“”‘’—…·]")
HANGUL = regex.compile(r"\p{Script=Hangul}")
APOSTROPHE = regex.compile(
    r"\b(?:(?i:I|you|we|they|he|she|it|that|there|here|what|who|how|where|let)(?=.(?:s|re|ve|ll|m|d)\b)"
    r"|[A-Za-z]+n(?=.t\b))\K\ufffd"
)
"""The lost character of it�s and don�t, and of no Hungarian word."""

GB18030 = dict(
    zip(
        map(chr, (0xE5E5, 0xE76C, 0xE7C7, 0xE7C8, 0xE816, 0xE817, 0xE818, 0xE81E, 0xE826, 0xE82B,
                  0xE82C, 0xE831, 0xE832, 0xE83B, 0xE843, 0xE854, 0xE855, 0xE864)),
        "\u3000\u2016\u1e3f\u01f9\U00020087\U00020089\U000200cc\u9fb4\u9fb5\u9fb6"
        "\u9fb7\U000215d7\u9fb8\U0002298f\u9fb9\u9fba\U000241fe\u9fbb",
        strict=True,
    )
)  # fmt: skip
"""Private-use characters that older tables of GBK and GB 18030 give for a character that had no
place in Unicode, and its place now (GB 18030-2005 and -2022)."""
SYMBOL = dict(
    zip(
        "\uf0b7\uf06c\uf06e\uf0a7\uf075\uf0d8\uf0fc\uf0fe\uf0e0\uf0f0\uf076\uf04a",
        "••▪▪◆➢✓☑→⇨❖☺",
        strict=True,
    )
)
"""Symbol and Wingdings characters at the places where Word puts them."""

FENCED = regex.compile(
    r"(```[^`\n]*\n.*?(?:^[ \t]*```|\Z)|^[ \t]*~~~[^~\n]*\n.*?(?:^[ \t]*~~~|\Z))", regex.M | regex.S
)
"""Fenced code. Its first line may follow other words: `答：```python`."""
ENDS = (" ", "\t", "\u3000")
ENDING_BLANKS = regex.compile(r"(?<![ \t\u3000])[ \t\u3000]++(?=\n|\Z)")
ROW = re.compile(r"\S *\t[\t ]*\S")
BLANK_LINES = regex.compile(rf"\n{{{MAX_BLANK_LINES + 2},}}")
INDENT = regex.compile(r"^[ \t]*\u3000[ \t\u3000]*", regex.M)
INDENT_WIDTH = 2
"""Full-width blanks that indent a Chinese paragraph."""


@OPERATORS.register_module("tidy_whitespace_mapper")
class TidyWhitespaceMapper(Mapper):
    """Tidies blanks and takes out invisible characters that carry no meaning."""

    _batched_op = True

    def tidy(self, text: str) -> str:
        """One text tidied."""
        if ODD.search(text) and not _is_garbled(text):
            text = _characters(text)
        if "```" in text or "~~~" in text:
            parts = FENCED.split(text)
            parts[::2] = map(_lines, parts[::2])
            text = "".join(parts)
        else:
            text = _lines(text)
        # Blank lines go at the start; the first line's indentation may be code.
        start = len(text) - len(text.lstrip(" \t\u3000\n"))
        first = text.rfind("\n", 0, start) + 1
        return text[first:].rstrip("\n")

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Tidy every text of a batch."""
        samples[self.text_key] = [self.tidy(text) for text in samples[self.text_key]]
        return samples


def _is_garbled(text: str) -> bool:
    """True for a text of which a tenth was lost in decoding: a filter shall see that it was."""
    lost = len(LOST_IN_DECODING.findall(text))
    return lost >= 5 and lost * 10 > len(text)


def _characters(text: str) -> str:
    """A text with its odd characters mapped."""
    if "\x1b" in text:
        text = ESCAPE.sub("", text)
    text = LINE_BREAK.sub("\n", text)
    if "\ufffd" in text:
        text = regex.sub("\ufffd+", LOST, APOSTROPHE.sub("'", text))
    flags = {i for m in FLAG.finditer(text) for i in range(m.start() + 1, m.end())}
    rtl = _right_to_left(text)
    pieces: list[str] = []
    at = 0
    kept = ""  # the last character that stays, behind which a joiner or selector is judged
    for match in ODD.finditer(text):
        i, odd = match.start(), match[0]
        if i > at:
            pieces.append(text[at:i])
            kept = text[i - 1]
        at = i + 1
        stays = i in flags or (odd in MARKS and rtl(i))
        new = odd if stays else _mapped(odd, kept, text[at : at + 1])
        if new:
            pieces.append(new)
            kept = new
    return "".join(pieces) + text[at:]


def _right_to_left(text: str) -> Callable[[int], bool]:
    """A function that says if a position lies in a line with letters written from right to left."""
    if not RIGHT_TO_LEFT.search(text):
        return lambda position: False
    ends, written = [], []
    start = 0
    for line in text.split("\n"):
        start += len(line) + 1
        ends.append(start)
        written.append(RIGHT_TO_LEFT.search(line) is not None)
    return lambda position: written[bisect.bisect_right(ends, position)]


def _mapped(odd: str, before: str, after: str) -> str:
    """Replacement of an odd character between two others (at a text's ends: an empty string)."""
    if odd in BLANK:
        return " "
    if odd == "\u200d" and before and EMOJI_PART.match(before) and EMOJI.match(after):
        return odd
    if odd in "\u200c\u200d":
        return odd if JOINED.match(before) or (odd == "\u200d" and JOINED.match(after)) else ""
    if odd == "\u200b":
        return odd if UNSPACED.match(before) and UNSPACED.match(after) else ""
    if "\ufe00" <= odd <= "\ufe0f" or "\u180b" <= odd <= "\u180e":
        return odd if _selects(odd, before, after) else ""
    if odd in "\u115f\u1160\u3164\uffa0":  # fillers: part of a syllable, or an invisible name
        return odd if HANGUL.match(before) or HANGUL.match(after) else ""
    if odd == "\u2800":  # a blank of Braille, elsewhere an indestructible one
        return odd if "\u2801" <= before <= "\u28ff" or "\u2801" <= after <= "\u28ff" else " "
    if "\ue000" <= odd <= "\uf8ff" or odd >= "\U000f0000":
        return _private(odd, before, after)
    return ""


def _selects(selector: str, before: str, after: str) -> bool:
    if selector in "\ufe0e\ufe0f":
        return bool(EMOJI_OR_FLAG.match(before)) or (after == "\u20e3" and before in "0123456789#*")
    return SELECTED.match(before) is not None


def _private(odd: str, before: str, after: str) -> str:
    known = GB18030.get(odd) or SYMBOL.get(odd)
    if known:
        return known
    if "\ue78d" <= odd <= "\ue793":
        return chr(ord(odd) - 0xE78D + 0xFE10)  # vertical forms of punctuation
    chinese = before == LOST or HAN.match(before)
    return LOST if chinese and (HAN.match(after) or "\ue000" <= after <= "\uf8ff") else ""


def _lines(text: str) -> str:
    """A text, outside of fenced code, with its lines tidied."""
    if text.endswith(ENDS) or any(f"{blank}\n" in text for blank in ENDS):
        text = ENDING_BLANKS.sub(functools.partial(_ending, ROW.search(text) is not None), text)
    if "\n\n\n\n" in text:
        text = BLANK_LINES.sub("\n" * (MAX_BLANK_LINES + 1), text)
    if "\u3000" in text:
        indents = INDENT.findall(text)
        if indents and max(indent.count("\u3000") for indent in indents) <= INDENT_WIDTH:
            text = INDENT.sub("", text)
    return text


def _ending(in_table: bool, blanks: regex.Match[str]) -> str:
    # Tabs at the end of a table's row are empty cells.
    return str(blanks[0]) if in_table and "\t" in blanks[0] else ""
