"""Scores: Wilson's intervals as scipy's, micro and macro accuracies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from corpus.benchmarks.scoring import score, wilson_interval


def test_wilson_interval_is_scipys() -> None:
    for right, total in ((0, 1), (1, 1), (3, 10), (30, 100), (602, 602), (150, 602)):
        reference = binomtest(right, total).proportion_ci(0.95, method="wilson")
        assert wilson_interval(right, total) == pytest.approx(
            (reference.low, reference.high), abs=1e-12
        )


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_bounds(case: tuple[int, int]) -> None:
    right, total = case
    low, high = wilson_interval(right, total)
    assert 0 <= low <= high <= 1
    assert total == 0 or low <= right / total <= high


def test_micro_counts_questions_and_macro_counts_subjects() -> None:
    sample = {"truncated": False, "gold": "A"}
    samples = [{**sample, "subject": "small", "choice": "A"}]
    samples += [{**sample, "subject": "large", "choice": c} for c in "ABBB"]
    result = score(samples)
    assert result["accuracy_micro"] == 2 / 5
    assert result["accuracy_macro"] == (1 + 1 / 4) / 2
    assert result["subjects"]["large"] == {"accuracy": 0.25, "num_questions": 4}
