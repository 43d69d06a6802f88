"""Documents without the benchmark questions that they contain: the passage goes, or all of it.

A passage is cut at the boundaries of lines and sentences, with the number before it and the
options, answer and explanation that follow it. Where it is a large part of the document, what
would be left is not worth keeping, and the document goes.
"""

import re
from collections.abc import Sequence

from corpus.decontaminate.index import Index, Match

MOST_CUT = 0.2
"""Share of a document's characters that may be cut out; one that would lose more is dropped."""
LEAST_LEFT = 200
"""Characters that must be left."""
ROUNDS = 4
"""Times that a document is searched again after a cut: a page may ask a question twice."""

_NEAR = 40
"""Characters to the beginning or end of a line below which the whole line goes."""
_SENTENCE = 200
"""Characters in which the end of a sentence is looked for."""
_MOST_LINES = 8
"""Lines after a question that belong to it."""
_ENDS = re.compile("[。！？!?；;\n]|\\.(?=\\s)")
_FOLLOWS = re.compile(
    r"\s*(?:[(（\[【]?\s*[A-Ga-g]\s*[.．、:：)）\]】]"
    r"|[(（\[【]?\s*(?:正确|参考|标准)?(?:答案|答|解析|考点|分析|点评|详解|解)\s*[\]】)）:：是为]"
    r"|(?:answer|explanation)\b)",
    re.IGNORECASE,
)


def without_questions(text: str, matches: Sequence[Match], index: Index) -> str | None:
    """The text with the passages cut out; None where they are too large a part of it.

    Args:
        text: the document.
        matches: what `index` found in it, at least one.
        index: looks again at what is left.
    """
    whole = len(text)
    for _ in range(ROUNDS):
        spans = sorted(_widened(text, *part) for match in matches for part in match.parts)
        kept, at = [], 0
        for begin, end in spans:
            if begin > at:
                kept.append(text[at:begin])
            at = max(at, end)
        text = "".join([*kept, text[at:]])
        if len(text.strip()) < LEAST_LEFT or len(text) < (1 - MOST_CUT) * whole:
            return None
        matches = index.find(text)
        if not matches:
            return text
    return None


def _widened(text: str, first: int, last: int) -> tuple[int, int]:
    """A passage up to the boundaries of lines or sentences, with what belongs to the question."""
    begin = text.rfind("\n", 0, first) + 1
    if first - begin > _NEAR:
        low = max(begin, first - _SENTENCE)
        begin = max((m.end() for m in _ENDS.finditer(text, low, first)), default=first)
    end = _line_end(text, last)
    if end - last > _NEAR:
        found = _ENDS.search(text, last, min(end, last + _SENTENCE))
        return begin, found.end() if found else last
    for _ in range(_MOST_LINES):
        after = _line_end(text, end + 1)
        if end >= len(text) or not _FOLLOWS.match(text, end + 1, after):
            break
        end = after
    at_line_start = begin == 0 or text[begin - 1] == "\n"
    return begin, min(len(text), end + 1) if at_line_start else end


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end
