"""Words of a question that a text spells otherwise: misprints, and words that a line break splits.

    question   carries  sensation  from       covered, not covered, covered
    text       carries  sens ation from       the letters in between: the same, or nearly

A misprint of one letter changes a whole word where a token is a word; one in 30 letters changes a
sixth of the words of an English question. Numbers are never mended.
"""

from collections.abc import Sequence

import numpy as np
import regex

from corpus.decontaminate.alignment import Alignment
from corpus.decontaminate.tokens import is_number

LETTERS_AN_ERROR = 5
"""Letters for each of which one may be another, missing, added, or swapped with its neighbour."""
MOST_LETTERS = 80
"""Letters of the words in a row that are compared; more of them are other words."""
MOST_TOKENS = 30
"""Tokens of a text between two words that agree, if those between are to be the question's."""
LEAST_LETTERS = 4
"""Letters of an option that may be misprinted; a shorter one is another word."""


def is_word(token: str) -> bool:
    """True for letters of an alphabet, of which a token has several."""
    return token.isalpha() and ord(token[0]) < 0x2E80


def _may_be_misprinted(token: str) -> bool:
    """True for a word that is no number: nine is no misprint of five."""
    return is_word(token) and not is_number(token)


def mended(found: Alignment, words: Sequence[str], text: Sequence[str]) -> Alignment:
    """An alignment with the words that the text spells nearly the same.

    Args:
        found: places of the words in the text.
        words: the tokens that were aligned.
        text: tokens of the text.
    """
    places = found.places.copy()
    missing = np.flatnonzero(places < 0)
    if not len(missing):
        return found
    for run in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
        first, last = int(run[0]), int(run[-1]) + 1
        wanted = "".join(words[first:last])
        if not all(map(_may_be_misprinted, words[first:last])) or len(wanted) > MOST_LETTERS:
            continue
        left = int(places[first - 1]) + 1 if first else -1
        right = int(places[last]) if last < len(places) else -1
        if left < 0 and right < 0:
            continue
        if left < 0:
            left = _enough(text, range(right - 1, -1, -1), len(wanted))
        elif right < 0:
            right = _enough(text, range(left, len(text)), len(wanted)) + 1
        if not 0 < right - left <= MOST_TOKENS:
            continue
        there = "".join(token for token in text[left:right] if is_word(token))
        if alike(wanted, there):
            spread = np.arange(last - first) * (right - left) // (last - first)
            places[first:last] = left + spread
    return Alignment(places >= 0, places)


def _enough(text: Sequence[str], places: range, letters: int) -> int:
    """The place, of some in a row, at which they have nearly this many letters."""
    seen, at = 0, places.start
    for at in places:
        seen += len(text[at]) if is_word(text[at]) else 0
        if seen >= letters - letters // LETTERS_AN_ERROR or abs(at - places.start) > MOST_TOKENS:
            break
    return at


def misprinted_option(option: Sequence[str], text: Sequence[str]) -> tuple[int, int] | None:
    """First token of a text and the one after the last that spell an option nearly as it is."""
    wanted = "".join(option)
    if not all(map(_may_be_misprinted, option)) or not LEAST_LETTERS <= len(wanted) <= MOST_LETTERS:
        return None
    ends = np.cumsum([len(token) for token in text])
    errors = max(1, len(wanted) // LETTERS_AN_ERROR)
    near = regex.search(f"(?b)(?:{regex.escape(wanted)}){{e<={errors}}}", "".join(text))
    if near is None:
        return None
    first, last = np.searchsorted(ends, [near.start() + 1, max(near.end(), near.start() + 1)])
    return int(first), int(last) + 1


def alike(wanted: str, there: str) -> bool:
    """True if a few letters make one word of the other, at most one in `LETTERS_AN_ERROR`."""
    most = max(1, len(wanted) // LETTERS_AN_ERROR)
    if abs(len(wanted) - len(there)) > most or len(wanted) < 2:
        return False
    return _distance(wanted, there) <= most


def _distance(one: str, other: str) -> int:
    """Letters added, left out, replaced, or swapped with a neighbour (optimal string alignment)."""
    earlier: list[int] = []
    before = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, against in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
        earlier, before = before, row
    return before[-1]
