"""Measures of a page, against plain definitions of them."""

import itertools
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.quality import features, rules
from tests.corpus.cleaning.quality.pages import PROSE, page

TEXT = st.text(alphabet="天地玄黄宇宙洪荒。！\n；aB", max_size=300)


def measured(text: str) -> dict[str, float]:
    return dict(zip(features.names(), features.measure(text).measures.tolist(), strict=True))


def coherence(text: str) -> tuple[float, ...]:
    """The same in words: sets of pairs of characters of each sentence."""
    sentences = [s.lower() for s in re.split(r"[。！？!?\n；;]", text) if len(s) >= 8]
    pairs = [{s[i : i + 2] for i in range(len(s) - 1)} for s in sentences]
    if len(pairs) < 2:
        return (0.0,) * 6
    neighbour = [len(a & b) / min(len(a), len(b)) for a, b in itertools.pairwise(pairs)]
    elsewhere = [
        sum(any(p in other for k, other in enumerate(pairs) if k != n) for p in one) / len(one)
        for n, one in enumerate(pairs)
    ]
    mean = sum(elsewhere) / len(elsewhere)
    spread = math.sqrt(sum((x - mean) ** 2 for x in elsewhere) / len(elsewhere))
    least = min(neighbour)
    return (
        sum(neighbour) / len(neighbour), least, mean, min(elsewhere), spread, elsewhere[0],
    )  # fmt: skip


@given(TEXT)
def test_coherence_is_what_its_definition_says(text: str) -> None:
    text += "。" + " " * 8  # short texts are filled up with blanks
    found = measured(text)
    expected = coherence(text + "。" if len(text) >= 8 else text)
    tolerance = pytest.approx(expected, abs=2e-6)
    assert tuple(found[name] for name in features.COHERENCE) == tolerance


def test_sentences_from_anywhere_cohere_less() -> None:
    chance = random.Random(1)
    of_one = [page(PROSE[:12], i) for i in range(6)]
    others = ["".join(chr(0x4E00 + chance.randrange(9000)) for _ in range(40)) for _ in range(6)]
    assert measured("。".join(of_one))["elsewhere_mean"] > 0.5
    assert measured("。".join(others))["elsewhere_mean"] < 0.1


@given(st.text(max_size=200), st.integers(0, 400))
def test_beginnings_of_words_are_found(text: str, at: int) -> None:
    word = "本文摘要"
    place = at % (len(text) + 1)
    found = rules.beginnings().find(f"{text[:place]}{word}{text[place:]}")
    assert "本文" in found
    assert all(pair in f"{text[:place]}{word}{text[place:]}" for pair in found)
