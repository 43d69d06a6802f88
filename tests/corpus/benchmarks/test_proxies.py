"""Proxies: each is what its definition says, and moves where accuracy stands still."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.benchmarks.proxies import cloze_proxies, letter_proxies

LOG_P = st.lists(st.floats(-30, 0), min_size=4, max_size=4)


@given(st.lists(st.tuples(LOG_P, st.integers(0, 3)), min_size=1, max_size=20))
def test_letters_are_the_definitions(rows: list[tuple[list[float], int]]) -> None:
    found = letter_proxies([{"log_likelihoods": logp} for logp, _ in rows], [t for _, t in rows])
    p = [math.exp(logp[t]) / sum(map(math.exp, logp)) for logp, t in rows]
    assert found["p_right"]["mean"] == pytest.approx(sum(p) / len(p))
    logs = [math.log(value) for value in p]
    assert found["log_p_right"]["mean"] == pytest.approx(sum(logs) / len(p), abs=1e-6)
    right = [max(range(4), key=logp.__getitem__) == t for logp, t in rows]
    assert found["accuracy"]["mean"] == pytest.approx(sum(right) / len(right))
    margins = [logp[t] - max(logp[:t] + logp[t + 1 :]) for logp, t in rows]
    assert found["margin"]["mean"] == pytest.approx(sum(margins) / len(margins))
    assert found["margin"]["questions"] == len(rows)
    if len(rows) == 1:
        assert found["margin"]["standard_error"] is None


def test_the_probability_of_the_right_letter_moves_before_accuracy() -> None:
    early = letter_proxies([{"log_likelihoods": [-1.0, -2.0, -3.0, -3.0]}] * 3, [1, 1, 1])
    later = letter_proxies([{"log_likelihoods": [-1.0, -1.1, -3.0, -3.0]}] * 3, [1, 1, 1])
    assert early["accuracy"]["mean"] == later["accuracy"]["mean"] == 0
    for name in ("p_right", "log_p_right", "margin"):
        low, high = early[name]["mean"], later[name]["mean"]
        assert low is not None and high is not None and low < high


def test_extreme_likelihoods_stay_finite() -> None:
    found = letter_proxies([{"log_likelihoods": [-5000.0, -1.0, -2.0, -9000.0]}], [0])
    assert found["p_right"]["mean"] == 0
    assert found["log_p_right"]["mean"] == pytest.approx(-4999 - math.log1p(math.exp(-1)))


def test_cloze_figures_are_normalised_by_the_option() -> None:
    answer = {
        "target": 0,
        "log_likelihoods": [-6.0, -4.0, -9.0, -9.0],
        "characters": [6, 2, 3, 3],
        "bytes": [18, 6, 9, 9],
        "tokens": [3, 2, 3, 3],
    }
    found = {name: figure["mean"] for name, figure in cloze_proxies([answer]).items()}
    assert found["accuracy"] == 1  # -1 a character against -2, though it is the less likely text
    assert found["bits_per_byte"] == pytest.approx(6 / math.log(2) / 18)
    assert found["log_p_per_character"] == -1
    assert found["log_p_per_token"] == -2
    assert found["margin"] == 1
    total = sum(math.exp(p) for p in (-6, -4, -9, -9))
    assert found["p_right"] == pytest.approx(math.exp(-6) / total)
