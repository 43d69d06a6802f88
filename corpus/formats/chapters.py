"""A novel cut into its chapters, by its own headings; no character is lost.

    《西游记》…        ─┐ front matter: before the first heading, with a table of contents
    第一回 灵根育孕…   ─┤ chapter 1: the heading's line and all up to the next
    第二回 悟彻菩提…   ─┘ chapter 2

A line is a heading if it looks like one (第十二回, 卷一, 楔子, Chapter 3, PROLOGUE), and if what
stands around it agrees: it begins a paragraph, its form is that of the others, its number goes on
where the one before ended. `第一章讲的是…` in a paragraph is none. Statutes, whose chapters are
articles of a few lines, and texts with few or tiny chapters stay whole.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

MIN_TEXT = 1_000
"""Characters of a text that is worth cutting."""

MIN_CHAPTERS = 3
"""Headings that a novel has at least; two will do in a text ten times as long as `MIN_TEXT`."""

MIN_NUMBERED = 5_000
"""Characters of a text whose headings may be bare numbers."""

MANY_CHAPTERS = 8
"""Chapters with such headings at least; fewer are the points of a report."""

NUMBERED_CHAPTER = 2_000
"""Bytes of UTF-8 that half of them have; shorter ones are items of a list."""

MIN_CHAPTER = 200
"""Characters that half of the chapters must have; shorter ones are an outline, or a law."""

MAX_HEADING = 60
"""Characters of a heading at most."""

CONTENTS = 4
"""Headings directly one after the other that are a table of contents."""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A part of a text that begins with a heading."""

    title: str
    """The heading, without blanks around it; empty for what stands before the first."""
    text: str
    """The text, heading included, to the last character before the next."""
    line: int
    """Line of the text that it begins on, from 1."""


@dataclass(frozen=True, kw_only=True)
class _Heading:
    line: int
    """Index of its line."""
    title: str
    unit: str
    """`回`, `章`, `卷`, `chapter`, …; `special` for a prologue or an epilogue."""
    number: int
    separated: bool
    """A blank or a sign stands between number and title, or there is no title."""
    apart: bool
    """A blank line, or the end of a sentence, stands before it."""


_DIGITS = "0-9０-９〇零○一二三四五六七八九十百千两壹贰叁肆伍陆柒捌玖拾佰貳參陸廿卅"
_UNITS = "章回節节卷部篇集折幕话話讲講"
_HIGHER = "卷部集篇"
_DECORATION = r"[\s\ufeff#*☆★◆◇■□●○【〖〔\[《=\-—_~～·]*"
_CHINESE = re.compile(
    rf"^{_DECORATION}(?:正文|VIP章节|VIP)?[\s:：]*"
    rf"(?:第[{_DIGITS}]{{1,9}}[卷部集篇][^第\n]{{0,24}}?(?=第))?"
    rf"(?:第[ \u3000]*(?P<number>[{_DIGITS}]{{1,9}})[ \u3000]*(?P<unit>[{_UNITS}])"
    rf"|卷[之第]?(?P<volume>[{_DIGITS}]{{1,5}}|[上中下])(?![{_UNITS}年级級宗地]))"
    rf"(?P<rest>.*)$"
)
_ENGLISH = re.compile(
    rf"^{_DECORATION}(?P<unit>chapter|book|part|volume|canto|letter|act)[ \t]+"
    r"(?P<number>\d{1,4}|[ivxlc]{1,8}|the [a-z-]+|(?:twenty|thirty|forty|fifty|sixty)?-?"
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    r"sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty))(?P<rest>(?:\W.*)?)$",
    re.IGNORECASE,
)
_SPECIAL = re.compile(
    rf"^{_DECORATION}(?:楔[ \u3000]*子|引[ \u3000]*[子言]|序[ \u3000]*[章幕曲言]|自序|代序|"
    r"前[ \u3000]*言|后[ \u3000]*记|後[ \u3000]*記|尾[ \u3000]*[声聲]|终[ \u3000]*章|終章|"
    r"番[ \u3000]*外|附[ \u3000]*[录錄]|跋|序|完本感言|大结局|prologue|epilogue|preface|foreword|"
    rf"afterword|introduction)(?P<rest>(?:[ \u3000:：·—（(\-].*|[{_DIGITS}]{{1,3}}.*)?)$",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"[\s:：、.．·—\-《〈「『【（(〔,，]|$")
_SENTENCE = re.compile(r"[。；，、：;,]\s*$|。\S|[！？][^！？!?]{9}")
_GOES_ON = re.compile(
    r"[讲講说說写寫是的中里裡内內介绍主要我你他她它这這那将將所对對从從以在和与與及至到之前后後开開结結也就都"
    r"还還又已把被让讓给給叫为為有没沒了着著过過呢吗嗎吧啊末第]"
)
_CONTENTS = re.compile(r"^\W*(?:目\s*录|目\s*錄|contents|table of contents)\W*$", re.IGNORECASE)
_LEADER = re.compile(r"(?:\.{3,}|…+|·{3,}|\t| {3,})\s*\d+\s*$")
_ARTICLE = re.compile(rf"^\s*第[{_DIGITS}]{{1,6}}[条條]", re.MULTILINE)
_LAW = re.compile(r"[章编]\s*(?:总\s*则|附\s*则)")
_END = re.compile(r"[。！？!?.…”’」』》）)～~*=—\-]\s*$")


def split_chapters(
    text: str, marked: Sequence[int] = (), *, is_book: bool = False
) -> list[Chapter]:
    """Cut a text into front matter and chapters; one Chapter without title where it has none.

    The texts of the chapters, joined, are the text.

    Args:
        text: a whole document.
        marked: lines, from 1, that its format marks as headings of chapters, whatever they say.
            They count unless the lines themselves tell of more than twice as many.
        is_book: the document is a book for certain, however short it is.
    """
    whole = [Chapter(title="", text=text, line=1)]
    if len(text) < MIN_TEXT and not is_book:
        return whole
    lines = text.split("\n")
    chapters = _chapters(lines, set())
    if marked:
        by_mark = _chapters(lines, set(marked))
        chapters = chapters if len(chapters) > 2 * len(by_mark) else by_mark
        if is_book:
            return chapters
    if _is_a_book(text, chapters):
        return chapters
    chapters = _cut(lines, _numbered(lines)) if len(text) >= MIN_NUMBERED else []
    if len(chapters) < MANY_CHAPTERS or not _is_a_book(text, chapters):
        return whole
    long = median(len(c.text.encode("utf-8", "replace")) for c in chapters) >= NUMBERED_CHAPTER
    return chapters if long else whole


_BARE = re.compile(
    r"^[\s\ufeff]*(?:(?P<number>\d{1,4})(?:\s*[、.．:：]|\s+|$)|(?P<roman>[IVXLC]{1,8})\.?\s*$)"
    r"(?P<rest>.{0,30})$"
)


def _numbered(lines: Sequence[str]) -> list[tuple[int, str]]:
    """(line, title) of headings that are a bare number (`1、风起`, `003 雨落`, `IV`), from 1 on
    without a gap; none where a number is missing, as in lists that begin again."""
    found: list[tuple[int, str]] = []
    before = ""
    for index, line in enumerate(lines):
        match = _BARE.match(line) if line and len(line) <= MAX_HEADING else None
        if match and (not before or _END.search(before)):
            number = _number(match["number"] or match["roman"])
            if number == len(found) + 1 and not _SENTENCE.search(match["rest"].rstrip()):
                found.append((index, line.strip()))
            elif number <= len(found) and number == 1:
                return []
        before = line.strip()
    return found


def _chapters(lines: Sequence[str], marked: set[int]) -> list[Chapter]:
    return _cut(lines, _cuts(lines, _without_contents(lines, _headings(lines, marked))))


def _is_a_book(text: str, chapters: Sequence[Chapter]) -> bool:
    titled = [chapter for chapter in chapters if chapter.title]
    enough = 2 if len(text) >= 10 * MIN_TEXT else MIN_CHAPTERS
    if len(titled) < enough:
        return False
    if median(len(chapter.text) for chapter in titled) < MIN_CHAPTER:
        return False
    if any(_LAW.search(chapter.title) for chapter in titled):
        return False
    return 2 * sum(bool(_ARTICLE.search(chapter.text)) for chapter in titled) < len(titled)


def _headings(lines: Sequence[str], marked: set[int]) -> list[_Heading]:
    found = []
    before = ""
    for index, line in enumerate(lines):
        if index + 1 in marked:
            title = line.strip().strip("#").strip()
            here = _heading(line, index) or _Heading(
                line=index, title=title, unit="marked", number=0, separated=True, apart=True
            )
            found.append(replace(here, unit="marked", apart=True))
        elif line and len(line) <= MAX_HEADING + 40 and (heading := _heading(line, index)):
            apart = not before or bool(_END.search(before))
            follows = bool(found) and found[-1].line == index - 1
            found.append(replace(heading, apart=apart or follows))
        before = line.strip()
    if marked:
        return [heading for heading in found if heading.unit == "marked"]
    return _agreeing(found)


def _heading(line: str, index: int) -> _Heading | None:
    """The heading that a line may be, judged by the line alone."""
    line = line.rstrip()
    title = line.strip().strip("\ufeff#*=-—_~ ")
    if not title or len(title) > MAX_HEADING:
        return None
    if match := _SPECIAL.match(line):
        rest = match["rest"].strip()
        if _SENTENCE.search(rest) or len(rest) > 30:
            return None
        return _Heading(
            line=index, title=title, unit="special", number=0, separated=True, apart=False
        )
    match = _CHINESE.match(line)
    if match:
        rest = match["rest"]
        unit = match["unit"] or "卷"
        number = _number(match["number"] or match["volume"])
        rest = rest.rstrip("】〗〕]》= -—_~～*#\r")
        separated = bool(_SEPARATOR.match(rest))
        if _SENTENCE.search(rest.rstrip()) or (not separated and _GOES_ON.match(rest)):
            return None
        return _Heading(
            line=index, title=title, unit=unit, number=number, separated=separated, apart=False
        )
    if match := _ENGLISH.match(line):
        rest = match["rest"].strip(" \t:.—-–\r*_=#")
        if (rest and rest[0].islower()) or _SENTENCE.search(rest):
            return None
        signs = match["rest"].lstrip(" \t")[:1]
        separated = not rest or signs in (":", ".", "-", "—", "–") or rest[0].isupper()
        return _Heading(
            line=index,
            title=title,
            unit=match["unit"].lower(),
            number=_number(match["number"]),
            separated=separated,
            apart=False,
        )
    return None


_VALUES = {char: value for value, char in enumerate("〇一二三四五六七八九")} | {
    "零": 0, "○": 0, "两": 2, "壹": 1, "贰": 2, "貳": 2, "叁": 3, "參": 3, "肆": 4, "伍": 5,
    "陆": 6, "陸": 6, "柒": 7, "捌": 8, "玖": 9, "上": 1, "中": 2, "下": 3,
}  # fmt: skip
_TENS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "廿": 20, "卅": 30}
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


def _number(text: str) -> int:
    """Value of a number in Chinese, Arabic or Roman digits; 0 where it is none of these."""
    if text.isdigit():
        return int(text)
    lower = text.lower()
    if all(char in _ROMAN for char in lower):
        values = [_ROMAN[char] for char in lower]
        following = [*values[1:], 0]
        return sum(-a if a < b else a for a, b in zip(values, following, strict=True))
    if not any(char in _TENS for char in text):
        digits = [str(_VALUES.get(char, "")) for char in text]
        return int("".join(digits)) if all(digits) else 0
    total = current = 0
    for char in text:
        if char in "廿卅":
            total, current = total + _TENS[char], 0
        elif char in _TENS:
            total, current = total + max(1, current) * _TENS[char], 0
        else:
            current = _VALUES.get(char, 0)
    return total + current


def _agreeing(found: list[_Heading]) -> list[_Heading]:
    """Headings that agree with each other: of the usual form, and in the order of their numbers."""
    numbered = [heading for heading in found if heading.unit != "special"]
    if not numbered:
        return [heading for heading in found if heading.apart]
    forms = Counter(heading.separated for heading in numbered if heading.apart)
    usual = forms[True] >= forms[False]
    units = Counter(h.unit for h in numbered if h.unit not in _HIGHER and h.unit not in "節节")
    main = units.most_common(1)[0][0] if units else ""
    kept = []
    last = 0
    for heading in found:
        if heading.unit in "節节" and main:
            continue
        if heading.unit == "special" or heading.unit in _HIGHER or heading.unit != main:
            sound = heading.apart and heading.separated
        else:
            goes_on = heading.number == last + 1 or (heading.number == 1 and last != 1)
            same_form = heading.separated == usual
            sound = (heading.apart and (same_form or goes_on)) or (goes_on and same_form)
        if sound:
            kept.append(heading)
            if heading.unit == main and heading.number:
                last = heading.number
    return kept


def _without_contents(lines: Sequence[str], headings: list[_Heading]) -> list[_Heading]:
    """Headings without those of a table of contents, which stand one below the other."""
    empty = [
        not any(line.strip() for line in lines[one.line + 1 : other.line])
        for one, other in itertools.pairwise(headings)
    ]
    last_of_key = {_key(heading): number for number, heading in enumerate(headings)}
    contents: set[int] = set()
    start = 0
    while start < len(headings):
        stop = start
        while stop < len(empty) and empty[stop]:
            stop += 1
        # headings[start .. stop] stand directly one below the other; the last one has a text.
        if stop - start + 1 >= CONTENTS:
            repeated = last_of_key[_key(headings[stop])] > stop
            contents |= set(range(start, stop))
            # The chapter's own heading follows the list's last line, unless that is repeated.
            first = next(
                (n for n in range(start, stop) if last_of_key[_key(headings[n])] == stop), None
            )
            if repeated:
                contents.add(stop)
            elif first is None and stop + 1 < len(headings):
                # Volumes in a row are no contents, and neither is a list that nothing repeats.
                unrepeated = [n for n in range(start, stop) if last_of_key[_key(headings[n])] == n]
                if len(unrepeated) == stop - start:
                    contents -= set(range(start, stop))
        start = stop + 1
    return [
        heading
        for number, heading in enumerate(headings)
        if number not in contents and not _LEADER.search(lines[heading.line])
    ]


def _key(heading: _Heading) -> tuple[str, int, str]:
    title = re.sub(r"\W|\d+$", "", _LEADER.sub("", heading.title))
    return heading.unit, heading.number, title if heading.unit in ("special", "marked") else ""


def _cuts(lines: Sequence[str], headings: Sequence[_Heading]) -> list[tuple[int, str]]:
    """(line, title) where the text is cut: a heading without a text of its own joins the next."""
    cuts: list[tuple[int, str]] = []
    titles: list[str] = []
    start = 0
    before: _Heading | None = None
    for number, heading in enumerate(headings):
        if before is not None and not titles and _key(heading) == _key(before) and heading.number:
            continue  # the title again, on a later page
        end = headings[number + 1].line if number + 1 < len(headings) else len(lines)
        if not titles:
            start = heading.line
        if heading.title not in titles:
            titles.append(heading.title)
        before = heading
        if any(line.strip() for line in lines[heading.line + 1 : end]) or end == len(lines):
            cuts.append((start, " ".join(titles)))
            titles = []
    return cuts


def _cut(lines: Sequence[str], cuts: Sequence[tuple[int, str]]) -> list[Chapter]:
    starts = [(0, "")] if not cuts or cuts[0][0] > 0 else []
    starts += cuts
    ends = [line for line, _ in starts[1:]] + [len(lines)]
    chapters = []
    for (start, title), end in zip(starts, ends, strict=True):
        part = "\n".join(lines[start:end]) + ("\n" if end < len(lines) else "")
        chapters.append(Chapter(title=title, text=part, line=start + 1))
    if len(chapters) > 1 and not chapters[0].title and not chapters[0].text.strip():
        blank, first, *rest = chapters
        joined = replace(first, text=blank.text + first.text, line=1)
        chapters = [joined, *rest]
    return chapters
