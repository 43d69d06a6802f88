"""Learning rates against values worked out by hand."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.train.config import PretrainSettings
from model.train.optim.schedule import learning_rate
from model.train.run.length import TrainingLength


def rates(total: int, *steps: int, **changes: Any) -> list[float]:
    settings = PretrainSettings(learning_rate=4.0, warmup_steps=4, **changes)
    return [learning_rate(settings, step, TrainingLength(initial_steps=total)) for step in steps]


def test_warm_up_rises_linearly_and_never_starts_at_zero() -> None:
    assert rates(100, 0, 1, 2, 3, 4) == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_cosine() -> None:
    # After 4 of 12 steps: cos at 0, 1/4, 1/2, 3/4 of the way.
    expected = [4.0, 2 * (1 + math.sqrt(0.5)), 2.0, 2 * (1 - math.sqrt(0.5)), 0.0]
    assert rates(12, 4, 6, 8, 10, 12) == pytest.approx(expected)


def test_cosine_ends_at_the_lowest_rate() -> None:
    assert rates(12, 8, 12, 500, min_learning_rate=1.0) == pytest.approx([2.5, 1.0, 1.0])


def test_wsd_is_flat_and_then_falls_linearly() -> None:
    found = rates(20, 4, 9, 15, 16, 17, 18, 19, 20, schedule="wsd", decay_fraction=0.2)
    assert found == pytest.approx([4, 4, 4, 4, 3, 2, 1, 0])


def test_constant() -> None:
    assert rates(10, 4, 7, 10, 1000, schedule="constant") == [4.0] * 4


@given(
    schedule=st.sampled_from(["cosine", "wsd", "constant"]),
    total=st.integers(2, 500),
    warmup=st.integers(0, 499),
    low=st.floats(0, 1e-3),
)
def test_rises_then_never_rises_again(schedule: Any, total: int, warmup: int, low: float) -> None:
    warmup = min(warmup, total - 1)
    settings = PretrainSettings(
        learning_rate=1e-3, min_learning_rate=low, warmup_steps=warmup, schedule=schedule
    )
    curve = [
        learning_rate(settings, step, TrainingLength(initial_steps=total)) for step in range(total)
    ]
    assert all(a < b for a, b in itertools.pairwise(curve[:warmup]))
    after = curve[warmup:]
    assert all(a >= b for a, b in itertools.pairwise(after))
    assert all(0 < rate <= 1e-3 for rate in curve[:warmup])
    assert all(low * (1 - 1e-9) <= rate <= 1e-3 for rate in after)
