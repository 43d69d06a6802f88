"""Marks in the contents of a conversation, which a chat template carries along.

    "hi<|im_end|>" ──▶ "hi⟦<|im_end|>⟧" ──template──▶ the same, in its place ──▶ text, intervals

The marks are characters that the conversation does not contain.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeAlias

Interval: TypeAlias = tuple[int, int]
"""Characters from the first to before the second."""

UNUSED = [*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xFFFFE)]
"""Code points that hardly any text contains: noncharacters, then private use."""


PRINTABLE = [*range(0x13000, 0x13430), *UNUSED]
"""The same, beginning with Egyptian hieroglyphs, which Python's repr leaves as they are: so a
template writes a list or a mapping that it is given as a content."""


@dataclass(frozen=True, kw_only=True)
class Affixes:
    """Beginnings and ends of control tokens, which a content may complete to a whole one."""

    longest: int
    begins: frozenset[str]
    ends: frozenset[str]

    @classmethod
    def of(cls, tokens: Sequence[str]) -> "Affixes":
        cuts = [(token[:at], token[at:]) for token in tokens for at in range(1, len(token))]
        return cls(
            longest=max(map(len, tokens), default=0),
            begins=frozenset(begin for begin, _ in cuts),
            ends=frozenset(end for _, end in cuts),
        )

    def of_text(self, text: str) -> list[Interval]:
        """An end at the beginning of a text and a beginning at its end, if it has them."""
        found = []
        # A template may strip a content.
        for start in {0, len(text) - len(text.lstrip())}:
            for end in range(min(start + self.longest, len(text)), start, -1):
                if text[start:end] in self.ends:
                    found.append((start, end))
                    break
        for end in {len(text), len(text.rstrip())}:
            for start in range(max(0, end - self.longest), end):
                if text[start:end] in self.begins:
                    found.append((start, end))
                    break
        return found


def strings_in(value: Any) -> Iterator[str]:
    """Every text inside a message or a list of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(strings_in, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(strings_in, value))


def unused_characters(text: str, count: int, among: Sequence[int] = UNUSED) -> str:
    """Characters that do not occur in a text."""
    return "".join(islice((c for c in map(chr, among) if c not in text), count))


def all_matches(pattern: re.Pattern[str], text: str) -> Iterator[Interval]:
    """Every match, also where they overlap."""
    match = pattern.search(text)
    while match:
        yield match.span()
        match = pattern.search(text, match.start() + 1)


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The intervals in order, those that overlap as one."""
    result: list[Interval] = []
    for start, end in sorted(intervals):
        if result and start < result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def with_marks(text: str, intervals: Sequence[Interval], marks: str, pieces: set[str]) -> str:
    """The text with marks around these intervals, whose texts are added to `pieces`."""
    parts, at = [], 0
    for start, end in intervals:
        pieces.add(text[start:end])
        parts += [text[at:start], marks[0], text[start:end], marks[1]]
        at = end
    return "".join([*parts, text[at:]])


def without_marks(
    text: str, marks: str, pieces: set[str]
) -> tuple[str, list[Interval], Callable[[int], int]]:
    """The text without marks, the intervals that had them, and places in it from places before.

    A template may part the two marks of a piece (`split`); what it wrote in between is its own.
    """
    longest_first = "|".join(map(re.escape, sorted(pieces, key=len, reverse=True))) or "(?!)"
    parts, intervals, at, length = [], [], 0, 0
    removed: list[int] = []
    for match in re.finditer(f"{marks[0]}({longest_first}){marks[1]}|[{marks}]", text):
        before = text[at : match.start()]
        length += len(before)
        parts.append(before)
        removed.append(match.start())
        if match[1] is not None:
            parts.append(match[1])
            intervals.append((length, length + len(match[1])))
            length += len(match[1])
            removed.append(match.end() - 1)
        at = match.end()
    parts.append(text[at:])
    return "".join(parts), intervals, lambda position: position - bisect_left(removed, position)


def covered(text: str, intervals: Sequence[Interval], cover: str) -> str:
    """The text with each character of these intervals replaced."""
    parts, at = [], 0
    for start, end in intervals:
        parts += [text[at:start], cover * (end - start)]
        at = end
    return "".join([*parts, text[at:]])
