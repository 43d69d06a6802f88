"""Surroundings of a letter in a generated answer: a name of an option, or a part of something else.

    答案是B。      B is one        答案是B细胞   none: a word        答案是A、C   several
    答案是A吗？    none: asked     A = 3 m       none: a formula     如果答案是A  none: supposed

Everything looks at a bounded number of characters before or behind.
"""

import re
from collections.abc import Sequence
from typing import Literal

Verdict = Literal["one", "several", "none"]

_BEHIND = 120
"""Characters behind a letter that are looked at."""
_BEFORE = 48
"""Characters before a statement that are looked at."""


def _letters(first: int, count: int = 26) -> dict[int, int]:
    return {first + i: ord("A") + i for i in range(count)}


_FOLD: dict[int, int | None] = {
    # Full-width letters and figures, letters in circles, and bold or sans-serif mathematical ones.
    **_letters(0xFF21),
    **{first + i: ord("a") + i for first in (0xFF41,) for i in range(26)},
    **{0xFF10 + i: ord("0") + i for i in range(10)},
    **_letters(0x24B6),
    **_letters(0x1D400),
    **_letters(0x1D5A0),
    **_letters(0x1D5D4),
    ord("\u00a0"): ord(" "),
    ord("\u3000"): ord(" "),
    ord("\t"): ord(" "),
    **dict.fromkeys(map(ord, "\r\u200b\u200c\u200d\u2060\ufeff"), None),
    # Emphasis and mathematics of Markdown. "x_A" and "A*2" become words, which are no letters.
    **dict.fromkeys(map(ord, "*_`$"), None),
}


def folded(text: str) -> str:
    """The text with plain letters, and without marks of emphasis."""
    return text.translate(_FOLD)


_NOT_STATED = re.compile(
    r"(?:不是|并非|绝非|不应该?是|不会是|不等于|错误的?|误导性的?|干扰|\bnot|\bnot\sthe|\bwrong|\bincorrect"
    r"|\bfalse|\bn't\sthe|\bno)\s?(?:的|正确的?|(?:correct|right|best|final)\s)?\s?$"
    r"|(?:如果|假如|假设|假定|倘若|若是|是否|难道|有人|有些|有的|别人|同学|以为|(?<!我)认为|(?<!最)可能)[^，。,]*$"
    r"|若[^，。,]{0,4}$|\b(?:if|suppose|assuming|assume|whether|unless|maybe|perhaps|possibly)\b[^,.]*$"
    r"|\b(?:some|many|people|students?|they|he|she|others)\b[^,.]*$",
    re.IGNORECASE,
)
_NOT_BELIEVED = re.compile(
    r"(?:不|没|没有|难|无法|未)(?:觉得|认为|以为|能?说|知道|确定|肯定|清楚|敢说|太?可能|一定)[^，。,]*$"
    r"|(?:\bnot|n't|\bnever|\bcannot)\b[^,.]*\b(?:think|believe|say|know|sure|certain|case|true)\b[^,.]*$"
    r"|(?:\b(?:your|his|her|their|common|typical|usual|obvious|tempting|example|sample|old|previous|second"
    r"|least|another|other|one|possible|likely)|(?<!question)['’]s)\s(?:\w+\s)?$",
    re.IGNORECASE,
)
_NOT_CHOSEN = re.compile(
    r"(?:不|别|误|勿|没|没有|未|错|多|易|能|会|可|否|若|要|果|假如|容易|n't|not|never)\s?$"
)
_CHOOSER = re.compile(
    r"(?:^|我们?|应该?|应当|故|所以|因此|只能|就|该|直接|综合考虑|最终|最后|还是|建议|推荐|倾向于?|请|得出?|而|便|即"
    r"|那么?|来|则|[题\s\W])\s?$"
)
_CLAUSE = re.compile(r".*[。！？!?;；\n,，]", re.DOTALL)


def before_statement(text: str, start: int, *, negated: bool = False) -> bool:
    """True if what stands before a statement in its clause neither denies nor supposes it.

    negated: look for a negation directly before it, too.
    """
    before = text[max(0, start - _BEFORE) : start]
    clause = before[match.end() :] if (match := _CLAUSE.match(before)) else before
    if clause.endswith("不"):
        return False
    if negated and (_NOT_CHOSEN.search(clause) or not _CHOOSER.search(clause)):
        return False
    return not (_NOT_STATED.search(clause) or _NOT_BELIEVED.search(clause))


_CLOSERS = " )）]】}\"'”’」』>》\\"
_LIST = re.compile(
    r"(?:[、/&|~\-–—+]|和|与|或者?|及|以及|还是|and/or\b|and\b|or\b)\s{0,2}"
    r"(?:选项|option\s)?[(（\[【\"'“]?[A-Z](?![A-Za-z])"
    r"|[(（\[【][A-Z][)）\]】]"
)
_DOTTED = re.compile(r"[.．]\s{0,2}(?P<other>[A-Z])(?:[.．](?:\s|$)|$|\n)")
_OFFERED = re.compile(
    r"(?:(?:^|[,，.。;；])\s?(?:或者?|和|or\b|and\b)|也(?:可以?|可能|许)?(?:是|选)|(?:还|也)(?:可以|可能|有)(?:是|选)?"
    r"|或许是?|可能是|\b(?:maybe|possibly|perhaps|also|could\sbe|might\sbe|may\sbe)\b)"
    r"[\s(（\[\"'“]{0,3}(?<![A-Za-z])(?P<one>(?-i:[A-Z]))(?![A-Za-z=+])"
    r"|(?<![A-Za-z])(?P<two>(?-i:[A-Z]))(?:选项|项)?也(?:是|可以|对|正确|行|符合)(?!错)",
    re.IGNORECASE,
)
"""Another letter that is offered after an answer, in its line."""
_CORRECTED = re.compile(
    r"(?:(?:\b(?:wait|actually|correction)\b|等等|等一下|更正|[。\n]\s?不对)[^。.\n]{0,16}?"
    r"|(?:\bshould\sbe\b|应该?是)[\s(（\[\"'“]{0,3})"
    r"(?<![A-Za-z])(?P<one>(?-i:[A-Z]))(?![A-Za-z=+])",
    re.IGNORECASE,
)
"""Another letter that an answer is corrected to."""
_COMMA_LIST = re.compile(
    r"[,，;；]\s{0,2}(?:and\s|or\s|和|或|以及)?[(（\[【\"'“]?[A-Z](?![A-Za-z])[)）\]】\"'”]?\s{0,2}"
    r"(?:$|[。.,，;；、\n}\]】)）]|正确|对的?|符合|和|或|及|都|均|and\b|or\b|are\b|both\b)"
)
_ALL_DENIED = re.compile(
    r"(?:(?:选项|项)?\s?(?:[、/和与及]|\band\b)\s?[A-Z](?:选项|项)?){1,6}\s?"
    r"(?:(?:[两二三四][项个者])?(?:都|均|也|全)?是?(?:不|错)|are\s(?:all\s|both\s)?(?:not|wrong|incorrect|false)\b)"
    r"|(?:(?:选项|项)?\s?[、,，]\s?[A-Z](?:选项|项)?){1,6}\s?(?:[两二三四][项个者](?:都|均|也|全)?|都|均|全)是?(?:不|错)"
)
_SUBJECT = re.compile(
    r"(?:(?:选项|项)?\s?(?:[、,，/和与及]|\band\b)\s?(?:and\s)?[A-Z](?:选项|项)?){1,6}\s?"
    r"(?:[两二三四][项个者]|都|均|也|全|正确|错|不|are\b|were\b)"
)
_CALLED_WRONG = re.compile(
    r"[.．。、:：)）\s]{1,3}(?:选项|是)?(?:错|不正确|不对|不符|不是|不选|[×✗✘❌]"
    r"|(?:(?:this|it)\s(?:is\s|option\sis\s))?(?:incorrect|wrong|false|not\s(?:correct|right|true))\b)",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?:选项|项)?\s?(?:吗|么|呢|[?？])")
_DENIED = re.compile(
    r"(?:选项|项)?(?:的?(?:说法|表述))?(?:是|为|也|都)?\s?(?:错|不|的可能|的话|的人|并非|未必)"
    r"|\s?(?:is|was|are)\s(?:not\b|wrong\b|incorrect\b|false\b)|\s?(?:isn't|wasn't)\b"
)
_GOES_ON = re.compile(
    r"(?:选项|项|答案|因为|由于|理由|原因|解析|解释|说明|这|所以|而|其|最|正确|是正确|是对|符合|题目|，|吧|了)"
)
_GOES_ON_EN = re.compile(
    r"(?:because|since|as|for|which|and|but|so|due|given|is|the correct|option|explanation"
    r"|reason|not|instead of|rather than)\b",
    re.IGNORECASE,
)
_OPERATOR = re.compile(r"\s{0,2}(?:[=<>+×÷^≤≥≈∝→/%°℃&·~]|\\(?!\)|\])|-(?!\s))")


def after_letter(text: str, end: int, letter: str, options: Sequence[str]) -> Verdict:
    """Judge the letter that ends at `end` by what follows it.

    several: it is one of a list, or stands beside the text of another option; none: it is part of
    a word or a formula, or is asked or denied.
    """
    rest = text[end : end + _BEHIND]
    own = _option(letter, options)
    if re.match(r"[A-Z]{1,4}(?![A-Za-z0-9])", rest) and letter.isupper():
        return "several" if all(_option(x, options) is not None for x in _run(rest)) else "none"
    if rest[:1].isascii() and rest[:1].isalnum():
        return "none"
    closed = rest.lstrip(_CLOSERS)
    if _ALL_DENIED.match(closed):
        return "none"
    if _LIST.match(closed) or _COMMA_LIST.match(closed):
        return "several"
    if _ASKED.match(closed) or _DENIED.match(closed):
        return "none"
    if offers_another(text, end, letter):
        return "several"
    if own is not None and same_text(text, end, own):
        return "one"
    if any(same_text(text, end, other) for other in options if other != own):
        return "several"
    if (dotted := _DOTTED.match(closed)) and dotted["other"] != letter.upper():
        return "several"
    if _CALLED_WRONG.match(rest):
        return "none"
    return "one" if _ends(rest, lower=letter.islower()) else "none"


def offers_another(text: str, end: int, letter: str) -> bool:
    """True if another letter is offered soon after the one that ends at `end`."""
    behind = text[end : end + 60]
    letters = {m["one"] or m["two"] for m in _OFFERED.finditer(behind.partition("\n")[0])}
    letters |= {m["one"] for m in _CORRECTED.finditer(behind)}
    return bool(letters - {letter.upper()})


def is_subject(text: str, end: int) -> bool:
    """True if the letter that ends at `end` begins a list of which something is said."""
    return bool(_SUBJECT.match(text[end : end + _BEHIND].lstrip(_CLOSERS)))


def _ends(rest: str, *, lower: bool) -> bool:
    """True if the letter before is not the begin of a word, a name or a formula."""
    line = rest.partition("\n")[0]
    if not line.strip():
        return True
    if _OPERATOR.match(line) or re.match(
        r"[.．]\d|[’'](?:s|t|re)\b|[（(][^（）()\s]{0,3}[)）]", line
    ):
        return False
    word = line.lstrip()
    spaced = len(word) < len(line)
    if spaced and re.match(r"\d{1,2}[.、)）]", word):
        return True  # the number of another question
    if word[0].isalpha() or word[0].isdigit():
        if word[0].isascii():
            return spaced and bool(_GOES_ON_EN.match(word))
        return bool(_GOES_ON.match(word))
    # "a, b and c" in running text: a small letter is an answer at the end of its line only.
    return not lower or not line.strip(_CLOSERS + ".。!！,，:：")


def _option(letter: str, options: Sequence[str]) -> str | None:
    index = ord(letter.upper()) - ord("A")
    return options[index] if index < len(options) else None


def _run(rest: str) -> str:
    match = re.match(r"[A-Z]+", rest)
    assert match is not None
    return match[0]


_DELIMITERS = " .．、:：)）]】}>\"'”’」』\\,，(（"
_DASH = re.compile(r"^[-–—]{1,2}\s")
_PUNCTUATION = _DELIMITERS + "。;；!！"


def same_text(text: str, start: int, option: str, *, whole: bool = True) -> bool:
    """True if an option's text stands from `start` on, behind nothing but punctuation.

    whole: the text must then end its line, but for punctuation.
    """
    wanted = " ".join(folded(option).split()).strip(_PUNCTUATION).casefold()
    if not wanted:
        return False
    line = text[start : start + 2 * len(option) + 64].lstrip(_DELIMITERS).partition("\n")[0]
    given = " ".join(_DASH.sub("", line).split()).casefold()
    if not given.startswith(wanted):
        return False
    behind = given[len(wanted) :]
    if whole:
        return not behind.strip(_PUNCTUATION)
    return not (behind[:1].isascii() and behind[:1].isalnum() and wanted[-1].isascii())
