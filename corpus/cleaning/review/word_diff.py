"""Two texts, word by word: pieces that are equal, taken out, or put in.

A Chinese character is a word, as are a run of Latin letters, a number, a run of blanks, a line
break and any other sign. Lines are compared first, then the words of lines that differ, so
the time is bounded for any texts; what is too long to be compared by words counts as replaced.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Op = Literal["equal", "removed", "added"]

WORD = re.compile(r"[A-Za-z]+|\d+|[^\S\n]+|\n|.", re.DOTALL)

MOST_LINES = 4_000
"""Lines of a text that are compared one with the other."""
MOST_WORDS = 20_000
"""Words, of lines that differ, that are compared one with the other."""


@dataclass(frozen=True)
class Piece:
    """A part of a text."""

    op: Op
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """Pieces of both texts: `equal` and `removed` are `before`, `equal` and `added` are `after`."""
    pieces: list[Piece] = []
    for op, text in _by_lines(before, after):
        if not text:
            continue
        if pieces and pieces[-1].op == op:
            pieces[-1] = Piece(op, pieces[-1].text + text)
        else:
            pieces.append(Piece(op, text))
    return pieces


def _by_lines(before: str, after: str) -> Iterator[tuple[Op, str]]:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    yield from _pieces(old, new, MOST_LINES, words=True)


def _pieces(
    old: Sequence[str], new: Sequence[str], most: int, *, words: bool
) -> Iterator[tuple[Op, str]]:
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    yield "equal", "".join(old[:start])
    yield from _middle(old[start : len(old) - end], new[start : len(new) - end], most, words)
    yield "equal", "".join(old[len(old) - end :])


def _middle(
    old: Sequence[str], new: Sequence[str], most: int, words: bool
) -> Iterator[tuple[Op, str]]:
    if not old or not new or max(len(old), len(new)) > most:
        yield from _replaced("".join(old), "".join(new), words)
        return
    for tag, i, j, k, m in SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            yield "equal", "".join(old[i:j])
        else:
            yield from _replaced("".join(old[i:j]), "".join(new[k:m]), words)


def _replaced(old: str, new: str, words: bool) -> Iterator[tuple[Op, str]]:
    if words and old and new:
        yield from _pieces(WORD.findall(old), WORD.findall(new), MOST_WORDS, words=False)
    else:
        yield "removed", old
        yield "added", new


@dataclass(frozen=True)
class Folded:
    """A stretch without a change that is not shown."""

    characters: int


def fold(pieces: Sequence[Piece], context: int) -> Iterator[Piece | Folded]:
    """Pieces with `context` characters around each change; other stretches become `Folded`."""
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        head = context if number > 0 else 0
        tail = context if number < last else 0
        hidden = len(piece.text) - head - tail
        if piece.op != "equal" or hidden <= context:
            yield piece
            continue
        if head:
            yield Piece("equal", piece.text[:head])
        yield Folded(hidden)
        if tail:
            yield Piece("equal", piece.text[len(piece.text) - tail :])


def in_line(pieces: Sequence[Piece], context: int = 30) -> str:
    """Pieces as one text for a terminal: `[-taken out-]`, `{+put in+}`, `…` for what is folded."""
    parts = []
    for piece in fold(pieces, context):
        if isinstance(piece, Folded):
            parts.append(f" …({piece.characters:,} characters)… ")
        else:
            left, right = {"equal": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}[
                piece.op
            ]
            parts.append(f"{left}{piece.text}{right}")
    return "".join(parts)
