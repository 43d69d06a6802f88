"""The option that a generated answer names, read strictly.

    "经过分析，答案是B。"   ──▶  B            stated          an answer that says so
    "**B. 北京**"           ──▶  B            form            the letter alone, or in front
    "A项错误，B项正确。"     ──▶  B            judged          nothing else, one option called right
    "答案是A，也可能是B"     ──▶  none         several         nothing is chosen for the model
    "应该是北京。"           ──▶  none         nothing stated  options are not matched by their text

Statements of one kind must agree, and a letter in front must agree with what is stated. An answer
that was cut off at the limit is not judged by halves: an option that it calls right on its way is
no answer yet. Nothing is evaluated, completed or drawn. Every search looks a bounded number of
characters ahead, so the time is linear in the length.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from corpus.benchmarks.answer_context import (
    after_letter,
    before_statement,
    folded,
    is_subject,
    offers_another,
    same_text,
)

Reason = Literal["", "empty", "nothing stated", "contradictory", "no such option"]


@dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    """Reading of one answer."""

    letter: str | None
    """Letter of an option; None where the answer names none, or more than one."""
    reason: Reason
    """Reason for none; empty where there is a letter."""


_OPEN = (
    r"(?:[\s:：\"'“”‘’「」『』【】\[\](（{<《]|\\[(\[]|\\?(?:boxed|text|mathrm|textbf|mathbf)\{"
    r"|选项|选择|选|option\b|choice\b|letter\b){0,6}"
)
"""Between a statement and its letter: brackets, quotes, colons, LaTeX, the word for an option."""
_LETTER = r"(?P<letter>[A-Za-z])"

_VERB_ZH = r"(?:应该?|应当|就|显然|只能|肯定|当然|一定|必然|最终|则){0,2}(?:是|为|选择?|即|[:：=→])"
_VERB_EN = (
    r"(?:[\"'”]?\s{0,3}(?:[:：=→]|->)|\s{1,3}(?:is|was|should be|would be|must be|will be)\b"
    r"(?:\s(?:therefore|thus|clearly|definitely|simply|then)\b)?(?:\s?[:：])?)"
)

_STATED = re.compile(
    rf"(?:(?P<verb>"
    rf"(?:答案|正解)(?:选项|[”’\"'」』】])?{_VERB_ZH}"
    rf"|(?:正确|最[^\s，。,;；]{{1,6}}|符合[^\s，。,;；]{{1,8}})的?(?:选项|一项|说法)?(?:应该?|就)?(?:是|为|[:：])"
    rf"|(?:故|应该?|应当|所以|因此|因而|综上|从而|于是|最终|本题|此题|题目?|只能|则|我)[，,]?(?:应该?|应当)?选(?!项)择?"
    rf"(?:答案|选项)?(?:为|是|[:：])?"
    rf"|\banswer(?:\sto\s(?:the|this)\squestion|\shere)?{_VERB_EN}"
    rf"|\b(?:correct|right|best|final|proper)\s(?:option|choice){_VERB_EN}"
    rf"|\\boxed\s?\{{)"
    rf"|(?P<bare>(?:答案|正解)|(?:(?<=\n)|^)(?:answer\b|答(?=[:：])))){_OPEN}{_LETTER}",
    re.IGNORECASE,
)
"""An answer that is called the answer."""

_JUDGED = re.compile(
    r"(?:选(?!项)择?(?:了|[:：])?|\bI(?:'d|\swould|\swill|'ll)?\s(?:choose|pick|select|go\swith))"
    rf"{_OPEN}{_LETTER}",
    re.IGNORECASE,
)
"""An option that is chosen."""

_RIGHT = re.compile(
    r"(?<![A-Za-z0-9_\\])(?P<letter>[A-Z])[)）\]】}\"'”’]?(?:[.．、:：]\s?)?"
    r"(?:(?:选项|项)?(?:的?(?:说法|表述|答案))?[)）]?\s?(?:才?是|为|最为?)?(?:正确|对的|合适|恰当|符合题意)"
    r"(?!吗|么|与否|性|率)"
    r"|\s(?:is|must\sbe|would\sbe)\s(?:the\s)?(?:most\s)?(?:correct|right|best|appropriate)\b(?!\?))"
)
"""An option that is called right."""

_MARKUP = re.compile(
    r"^[\s#>\-•(（\[【{<\"'“‘「『]{0,8}(?:选项|option\s|choice\s)?[(（\[【]?", re.IGNORECASE
)
_ALONE = re.compile(
    r"[\s#>\-•(（\[【{<\"'“‘「『]{0,8}(?:选项|option\s|choice\s)?[(（\[【]?(?P<letter>[A-Za-z])"
    r"[\s)）\]】}>\"'”’」』]{0,4}(?:选项|项)?[.．。,，:：;；、!！]?\s{0,4}",
    re.IGNORECASE,
)
"""A line of one letter."""


def parse_answer(text: str, options: Sequence[str], *, complete: bool = True) -> ParsedAnswer:
    """Read which option an answer names.

    Args:
        text: what a model wrote after the question.
        options: the texts of the options, in the order of their letters; the first is A.
        complete: False for an answer that ended at the limit of tokens and not by itself.
    """
    text = folded(text)
    if not text.strip():
        return ParsedAnswer(letter=None, reason="empty")
    letters = [chr(ord("A") + i) for i in range(len(options))]
    found = [*_statements(text, options), *_in_front(text, options)]
    if not found:
        found = _alone(text)
    if not found and complete:
        found = [*_chosen(text, options)]
    if not found:
        return ParsedAnswer(letter=None, reason="nothing stated")
    if len({*found}) > 1 or _SEVERAL in found:
        return ParsedAnswer(letter=None, reason="contradictory")
    if found[0] not in letters:
        return ParsedAnswer(letter=None, reason="no such option")
    return ParsedAnswer(letter=found[0], reason="")


_SEVERAL = ""
"""Stands for a statement of more than one letter, or of a letter beside another one's text."""


def _statements(text: str, options: Sequence[str]) -> Iterator[str]:
    """Letters that the text calls the answer."""
    for match in _STATED.finditer(text):
        if not before_statement(text, match.start()):
            continue
        verdict = after_letter(text, match.end("letter"), match["letter"], options)
        if verdict == "one" and _other_line(text, match):
            verdict = "several"
        if verdict == "several" and not match["bare"]:
            yield _SEVERAL
        elif verdict == "one" and not _list_follows(text, match.end(), options):
            yield match["letter"].upper()


def _other_line(text: str, match: re.Match[str]) -> bool:
    """True if the next line is another letter alone."""
    line = text.find("\n", match.end(), match.end() + 8)
    following = (
        _ALONE.fullmatch(text[line + 1 : line + 41].partition("\n")[0]) if line >= 0 else None
    )
    return following is not None and following["letter"].upper() != match["letter"].upper()


def _list_follows(text: str, end: int, options: Sequence[str]) -> bool:
    """True if a letter begins a list of the options: another one's letter and text come next."""
    line = text.find("\n", end, end + 400)
    mark = _MARK.match(text, line + 1) if line >= 0 else None
    if mark is None:
        return False
    index = ord(mark["letter"]) - ord("A")
    return index < len(options) and same_text(text, mark.end(), options[index])


def _chosen(text: str, options: Sequence[str]) -> Iterator[str]:
    """Letters of options that the text chooses or calls right."""
    for match in _JUDGED.finditer(text):
        letter = match["letter"]
        if before_statement(text, match.start(), negated=True):
            verdict = after_letter(text, match.end(), letter, options)
            if verdict != "none":
                yield letter.upper() if verdict == "one" else _SEVERAL
    for match in _RIGHT.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if not _NAMED.search(before) or _own(text, match, options):
            continue
        if before_statement(text, match.start()):
            listed = _LISTED_BEFORE.search(before)
            yield _SEVERAL if listed else match["letter"]


_NAMED = re.compile(
    r"(?:^|[\n。.,，;；:：!！?？、/&()（）\[【\"“]|选项|选|故|所以|因此|因而|则|只有|仅有?|而|知|即|得|显然|说明|但|和|与|及|或|\b(?:option"
    r"|choice|answer|letter|so|therefore|thus|hence|and|or|but|only|that|because|since|is))\s?[(（\[\"“]?$",
    re.IGNORECASE,
)
"""Before an option that is called right; behind another word a letter is part of a name."""
_LISTED_BEFORE = re.compile(
    r"(?<![A-Za-z])[A-Z](?:选项|项)?\s?(?:[、,，/&]|和|与|及|或|and|or)\s?(?:选项|[(（])?$"
)


def _alone(text: str) -> list[str]:
    """Letters that stand alone in a line."""
    lines = (line for line in text.splitlines() if 0 < len(line) <= 32)
    return [m["letter"].upper() for line in lines if (m := _ALONE.fullmatch(line))]


def _in_front(text: str, options: Sequence[str]) -> list[str]:
    """The letter that the text begins with, unless it only repeats the options."""
    text = text.lstrip()
    start = _MARKUP.match(text)
    at = start.end() if start else 0
    letter = text[at : at + 1]
    if not (letter.isascii() and letter.isalpha()):
        return []
    first, _, rest = text.partition("\n")
    if len(first) <= 32 and _ALONE.fullmatch(first):
        others = {*_alone(rest)} - {letter.upper()}
        taken_back = offers_another(text, at + 1, letter)
        return [_SEVERAL] if others or taken_back else [letter.upper()]
    if not letter.isupper():
        return []
    following = text[at + 1 : at + 6].lstrip(" )）]】}\"'”’」』")
    verdict = after_letter(text, at + 1, letter, options)
    marked = following[:1] in tuple(".．、:：)）,，。;；\n")
    index = ord(letter) - ord("A")
    own = index < len(options) and same_text(text, at + 1, options[index])
    if verdict == "none" or not (marked or own or text[at + 1 : at + 2] in ")）]】"):
        return []
    if verdict == "several":
        return [] if is_subject(text, at + 1) else [_SEVERAL]
    if not own and _CALLED_RIGHT.match(text, at + 1):
        return []  # its options are judged one by one: another may be right as well
    return [] if _repeats(text, at, letter, options, own=own) else [letter]


def _own(text: str, match: re.Match[str], options: Sequence[str]) -> bool:
    """True if the text of an option follows its letter."""
    index = ord(match["letter"]) - ord("A")
    return index < len(options) and same_text(text, match.end("letter"), options[index])


_CALLED_RIGHT = re.compile(
    r"[)）\]】]?[.．、:：\s]{1,3}(?:选项|是)?(?:正确|对的|[√✓✔✅]|(?:this\sis\s)?(?:correct|right|true)\b)",
    re.IGNORECASE,
)


def _repeats(text: str, at: int, letter: str, options: Sequence[str], *, own: bool) -> bool:
    """True if other options follow as they stand in the question, or speakers A and B do."""
    speakers = text[at + 1 : at + 2] in (":", "：") and not own
    line = text.find("\n", at)
    next_line = _MARK.search(text, line + 1) if line >= 0 else None
    successor = next_line is not None and ord(next_line["letter"]) == ord(letter) + 1
    if successor and next_line is not None and not text[line : next_line.start()].strip():
        return True  # whatever their texts are: the letters of a list follow one another
    for mark in _MARK.finditer(text, at + 1):
        other = ord(mark["letter"]) - ord("A")
        if own and mark["letter"] == "A" and _begins_anew(text, line, mark, options):
            return False
        if mark["letter"] == letter or other >= len(options):
            continue
        if same_text(text, mark.end(), options[other], whole=False):
            return True
        if speakers and text[mark.start() - 1] == "\n":
            return True
    return False


def _begins_anew(text: str, line: int, mark: re.Match[str], options: Sequence[str]) -> bool:
    """True if other text and then the first option follow an answer: a question is asked anew."""
    between = line >= 0 and text[line : mark.start()].strip()
    return bool(between) and same_text(text, mark.end(), options[0], whole=False)


_MARK = re.compile(r"(?<![A-Za-z0-9_\\])(?P<letter>[A-Z])[)）\]】]?\s?[.．、:：)）]\s{0,3}")
