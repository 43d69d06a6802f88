"""Pairs that are trained on: said once, contradicted by none, apart from held-out ones, at 4:1."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from model.train.finetune.preferences.selection import (
    CONTRADICTED,
    REPEATED,
    PairNames,
    balance,
    draw_pairs,
    without_repeats,
)

LANGUAGES = st.lists(st.sampled_from(["zh", "en", "other"]), max_size=60)


def name(pair: str, swapped: str = "") -> PairNames:
    return PairNames(pair=pair, swapped=swapped or f"-{pair}", digest=0, language="zh")


def test_repeats_and_contradictions_are_left_out() -> None:
    names = [name("a"), name("b", "c"), name("a"), name("c", "b"), name("d"), name("d"), name("e")]
    reasons = ["", "", "", "", "too long", "", ""]
    assert without_repeats(names, reasons) == [
        *("", CONTRADICTED, REPEATED, CONTRADICTED),
        *("too long", "", ""),
    ]


def test_a_pair_that_is_left_out_contradicts_nobody() -> None:
    assert without_repeats([name("b", "c"), name("c", "b")], ["too long", ""]) == ["too long", ""]


@given(LANGUAGES, st.integers(1, 5), st.none() | st.integers(6, 40), st.integers(0, 9))
def test_the_ratio_is_exact_and_as_much_as_there_is(
    languages: list[str], ratio: int, limit: int | None, seed: int
) -> None:
    there = Counter(languages)
    options = {"chinese_per_english": ratio, "limit": limit, "seed": seed}
    units = min(there["en"], there["zh"] // ratio, (limit or 10**9) // (ratio + 1))
    if not units:
        with pytest.raises(DataError, match=f"mixed {ratio}:1"):
            draw_pairs(languages, **options)  # type: ignore[arg-type]
        return
    drawn = draw_pairs(languages, **options)  # type: ignore[arg-type]
    assert drawn == sorted(set(drawn)) == draw_pairs(languages, **options)  # type: ignore[arg-type]
    assert Counter(languages[n] for n in drawn) == {"zh": ratio * units, "en": units}


@given(LANGUAGES, st.none() | st.integers(1, 40))
def test_without_a_ratio_all_are_taken_up_to_the_limit(
    languages: list[str], limit: int | None
) -> None:
    drawn = draw_pairs(languages, chinese_per_english=0, limit=limit, seed=3)
    assert len(drawn) == min(len(languages), limit or len(languages))


def test_another_seed_draws_others() -> None:
    languages = ["zh"] * 400 + ["en"] * 20
    draws = [draw_pairs(languages, chinese_per_english=4, limit=None, seed=seed) for seed in (1, 2)]
    assert draws[0] != draws[1]


def test_too_few_pairs_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="7 Chinese and 0 English"):
        balance(7, 0, 4, None)
