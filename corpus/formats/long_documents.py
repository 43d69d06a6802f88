"""Long documents cut into parts at the boundaries that their authors drew.

    text   chapter > section > paragraph, turn of a dialogue > line > sentence > word
    code   blank line before a definition, the less indented the better > line > word

Put together again, the parts are the document, character by character. Of equal boundaries the one
whose line has the smallest checksum is taken: a passage added to one of two copies moves the cuts
near it, and all others stay where they are, so copies are still found part by part.
"""

import re
import unicodedata
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

OPENING = 2_000
"""Characters of a file's beginning that its later parts carry in their `meta`: tools that write
files say so there."""


class Boundary(NamedTuple):
    """A line that a part may begin with."""

    position: int
    """Its first character."""
    rank: int
    """The higher, the better."""
    checksum: int
    """Of the line."""


def cut(text: str, longest: int, *, code: bool = False) -> list[str]:
    """Cut a text into parts of at most `longest` characters, and of at least a quarter of that.

    A web page in HTML stays whole: elements reach over any boundary, and cleaning has to see them
    all to find its main text.

    Args:
        text: any text.
        longest: characters of the longest part; 0: any number.
        code: it is a source file.
    """
    if not longest or len(text) <= longest or (not code and _is_html(text)):
        return [text]
    if longest < 4:
        raise ValueError(f"parts of {longest} characters are too short to be cut at boundaries")
    boundaries = list(_code_boundaries(text) if code else _text_boundaries(text))
    positions = [boundary.position for boundary in boundaries]
    parts = []
    start = 0
    while len(text) - start > longest:
        first = start + longest // 2
        # What is left must not be a remnant of a few characters.
        last = min(start + longest, len(text) - longest // 4)
        inside = boundaries[bisect_left(positions, first) : bisect_right(positions, last)]
        end = _best(inside) or _within_line(text, first, last)
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


_CLOSING_TAG = re.compile(
    r"</(?:p|div|body|html|head|table|t[dr]|span|a|[uo]l|li|script|style|h\d)>", re.I
)
CHARACTERS_PER_TAG = 500
"""Characters for each closing tag at most in a text that is HTML."""


def _is_html(text: str) -> bool:
    tags = sum(1 for _ in _CLOSING_TAG.finditer(text))
    return tags * CHARACTERS_PER_TAG >= len(text)


def _best(boundaries: Sequence[Boundary]) -> int:
    """Position of the best boundary; 0 where there is none."""
    best = max(boundaries, key=lambda b: (b.rank, -b.checksum, -b.position), default=None)
    return best.position if best else 0


_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Every line that is not blank but the first: position, line, and if a blank one precedes."""
    after_blank = True
    for found in _LINE.finditer(text):
        line = found.group()
        if line.isspace():
            after_blank = True
            continue
        yield found.start(), line, after_blank
        after_blank = False


_CHAPTER = re.compile(
    r"\s*(?:第[〇零一二三四五六七八九十百千万两\d]{1,9}[章回卷部篇集幕][^。！？\n]{0,40}$"
    r"|(?:chapter|part|book)\s+[\divxlc]{1,7}\b.{0,60}$)",
    re.I,
)
_SECTION = re.compile(
    r"(#{1,6})\s|\s*第[〇零一二三四五六七八九十百千\d]{1,9}[节條条]|[一二三四五六七八九十]{1,3}、"
)
_TURN = re.compile(r"(?:问|答|用户|助手|人类|Q|A|Human|User|Assistant|Bot)\s?\d{0,3}[:：]")
_QUESTION = re.compile(r"(?:问|用户|人类|Q|Human|User)\s?\d{0,3}[:：]")


def _text_boundaries(text: str) -> Iterator[Boundary]:
    """Beginnings of lines, those of chapters first; last those inside of code, formulas, tables."""
    fence, formula, table = "", False, False
    for position, line, after_blank in _lines(text):
        stripped = line.strip()
        row = stripped.startswith("|")
        if fence or formula:
            rank = 1
        elif row and table:
            rank = 2
        elif _CHAPTER.match(line):
            rank = 60
        elif heading := _SECTION.match(line):
            rank = 50 - len(heading[1] or "#####")
        elif _TURN.match(line):
            # An answer belongs to its question.
            rank = 42 if _QUESTION.match(line) else 20
        else:
            rank = 40 if after_blank else 30
        table = row
        if stripped.startswith(("```", "~~~")) and (not fence or stripped.startswith(fence)):
            fence = "" if fence else stripped[:3]
        elif not fence and stripped.count("$$") % 2:
            formula = not formula
        if position:
            yield Boundary(position, rank, zlib.crc32(line.encode("utf-8", "replace")))


_CLOSES = re.compile(
    r"[)}\]{]|(?:else|elif|except|finally|catch|case|default|end)\b|#\s*(?:else|elif|endif)\b"
)


_COMMENT = re.compile(r"//|#|/?\*|--|<!--")


def _code_boundaries(text: str) -> Iterator[Boundary]:
    """Beginnings of lines, the least indented one behind a blank line first."""
    lines = list(_lines(text))
    indents = [_indent(line) for _, line, _ in lines]
    comments = [bool(_COMMENT.match(line.strip())) for _, line, _ in lines]
    for i in range(len(lines) - 2, -1, -1):
        if comments[i]:
            # A comment belongs to what it stands above.
            indents[i] = max(indents[i], indents[i + 1])
    inside = ""
    for i, (position, line, after_blank) in enumerate(lines):
        stripped = line.strip()
        if inside:
            rank = 1
        elif _CLOSES.match(stripped):
            rank = 2
        else:
            rank = (40 if after_blank else 20) - min(indents[i] // 2, 15)
            rank -= 3 if i and comments[i - 1] else 0
        inside = _open_after(stripped, inside)
        if position:
            yield Boundary(position, rank, zlib.crc32(line.encode("utf-8", "replace")))


def _indent(line: str) -> int:
    wide = line.expandtabs(4)
    return len(wide) - len(wide.lstrip())


_MARK = re.compile(r"/\*|\*/|\"\"\"|'''|//|#|\"(?:[^\"\\]|\\.){0,200}+\"|'(?:[^'\\]|\\.){0,200}+'")


def _open_after(line: str, inside: str) -> str:
    """The mark that ends the comment or string still open behind a line; empty for none."""
    for found in _MARK.finditer(line):
        mark = found.group()
        if inside:
            if inside in mark:
                inside = ""
        elif mark in ("//", "#"):
            break
        elif mark in ('"""', "'''"):
            inside = mark
        elif mark == "/*":
            inside = "*/"
    return inside


_ENDS = (re.compile(r"[。！？!?…；;}]+[”’」』）)\"']*"), re.compile(r"[.,，、：:]+\s*|\s+"))


def _within_line(text: str, first: int, last: int) -> int:
    """The last end of a sentence in a range without line ends; else of a word; else its end."""
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text, first, last)]
        if ends:
            return ends[-1]
    end = last
    while end > first and _joins(text[end - 1], text[end]):
        end -= 1
    return end if end > first else last


def _joins(before: str, after: str) -> bool:
    """True if two characters are shown as one: a letter and its accent, parts of an emoji."""
    return (
        unicodedata.combining(after) > 0
        or after in "\u200d\ufe0e\ufe0f\u20e3"
        or before == "\u200d"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
    )
