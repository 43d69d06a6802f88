"""Misprinted words of a question: the same letters, nearly."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.decontaminate.alignment import align
from corpus.decontaminate.misprints import alike, mended, misprinted_option
from corpus.decontaminate.tokens import tokenize

WORDS = "the nerve that carries sensation from the front of the tongue is the lingual branch"


def found_in(question: str, text: str) -> float:
    part, there = tokenize(question), tokenize(text)
    found = align(part.hashes, there.hashes)
    assert found is not None
    repaired = mended(found, part.strings(), there.strings())
    assert (repaired.places[found.covered] == found.places[found.covered]).all()
    inside = repaired.places[repaired.covered]
    assert (np.diff(inside) >= 0).all() and inside.min() >= 0 and inside.max() < len(there.hashes)
    return repaired.share


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sensation", "sensaton"),
        ("sensation", "senssation"),
        ("sensation", "senastion"),
        ("sensation", "sensati0n"),
        ("sensation", "sen\nsation"),
        ("sensation from", "sensationfrom"),
        ("carries sensation", "carr-\nies sensatlon"),
        ("the nerve", "thr nerve"),
        ("branch", "brunch"),
    ],
)
def test_a_misprint_is_mended(old: str, new: str) -> None:
    assert found_in(WORDS, WORDS.replace(old, new)) == 1


@pytest.mark.parametrize("new", ["motion", "sense", "no sensation at all whatever", "感觉"])
def test_another_word_is_not(new: str) -> None:
    text = WORDS.replace("sensation", new).replace("at all whatever", "")
    if "sensation" not in text:
        assert found_in(WORDS, text) < 1


@pytest.mark.parametrize("old, new", [("180", "190"), ("nine", "mine"), ("eight", "eighty")])
def test_numbers_are_not_mended(old: str, new: str) -> None:
    question = f"the sum of the angles is {old} degrees in every triangle of the plane"
    assert found_in(question, question.replace(old, new)) < 1


@given(st.text("abcd", max_size=12), st.text("abcd", max_size=12))
def test_alike_is_symmetric_but_for_the_length(one: str, other: str) -> None:
    if len(one) == len(other):
        assert alike(one, other) == alike(other, one)


@given(st.text("abcdefgh", min_size=10, max_size=30), st.integers(0, 2**32))
def test_one_edit_is_alike_and_half_of_the_letters_are_not(word: str, seed: int) -> None:
    rng = random.Random(seed)
    at = rng.randrange(len(word))
    for other in (
        word[:at] + word[at + 1 :],
        word[:at] + "x" + word[at:],
        word[:at] + "x" + word[at + 1 :],
    ):
        assert alike(word, other)
    assert not alike(word, "z" * (len(word) // 2) + word[len(word) // 2 :])


def test_an_option_with_a_misprint_has_its_place() -> None:
    text = [
        "A",
        "the",
        "vagus",
        "nerve",
        "B",
        "the",
        "lingal",
        "nerve",
        "C",
        "the",
        "optic",
        "nerve",
    ]
    assert misprinted_option(("lingual", "nerve"), text) == (6, 8)
    assert misprinted_option(("yes",), ["yet", "yep"]) is None
    assert misprinted_option(("four",), ["for", "your", "tour"]) is None
    assert misprinted_option(("femoral", "artery"), text) is None
