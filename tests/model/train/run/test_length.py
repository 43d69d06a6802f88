"""Learning rates of runs whose end moves, against a recurrence and values worked out by hand."""

import itertools
import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from model.train.config import PretrainSettings
from model.train.optim.schedule import check_saved_length, learning_rate
from model.train.run.length import LengthChange, TrainingLength


def moved(step: int, total: int, decay_at: int | None = None) -> LengthChange:
    return LengthChange(step=step, total_steps=total, decay_at=decay_at)


def with_change(length: TrainingLength, change: LengthChange) -> TrainingLength:
    return replace(length, changes=(*length.changes, change))


def rates(length: TrainingLength, *steps: int, **changes: Any) -> list[float]:
    values = PretrainSettings(learning_rate=4.0, warmup_steps=4, **changes)
    return [learning_rate(values, step, length) for step in steps]


def test_cosine_goes_on_from_where_it_is_and_ends_later() -> None:
    # Half way at step 8 of 4..12; the other half then takes 8 steps instead of 4.
    length = TrainingLength(initial_steps=12, changes=(moved(8, 16),))
    expected = [4.0, 2 * (1 + math.sqrt(0.5)), 2.0, 2 * (1 - math.sqrt(0.5)), 0.0]
    assert rates(length, 4, 6, 8, 12, 16) == pytest.approx(expected)


def test_wsd_moves_its_decay_without_a_restart() -> None:
    flat = TrainingLength(
        initial_steps=20, changes=(moved(10, 40),)
    )  # before the decay, which began at 16
    wsd = {"schedule": "wsd", "decay_fraction": 0.2}
    assert rates(flat, 10, 16, 20, 32, 34, 36, 40, **wsd) == pytest.approx([4, 4, 4, 4, 3, 2, 0])
    falling = TrainingLength(
        initial_steps=20, changes=(moved(18, 40),)
    )  # half of the decay is over
    assert rates(falling, 17, 18, 32, 36, 40, **wsd) == pytest.approx([3, 2, 2, 1, 0])
    early = TrainingLength(initial_steps=100, changes=(moved(10, 20, 12),))
    assert rates(early, 10, 12, 14, 16, 20, **wsd) == pytest.approx([4, 4, 3, 2, 0])


def test_constant_decays_on_request() -> None:
    length = TrainingLength(initial_steps=100, changes=(moved(50, 100, 90),))
    assert rates(length, 49, 90, 95, 100, schedule="constant") == pytest.approx([4, 4, 2, 0])
    # Asked for more steps in the middle of it: straight on to the new end.
    longer = with_change(length, moved(95, 105, 90))
    assert rates(longer, 95, 100, 105, schedule="constant") == pytest.approx([2, 1, 0])


def test_an_append_that_keeps_the_steps_changes_no_bit() -> None:
    before = TrainingLength(initial_steps=997)
    after = with_change(before, moved(123, 997))
    assert rates(after, *range(997)) == rates(before, *range(997))


@st.composite
def runs(draw: st.DrawFn) -> tuple[PretrainSettings, TrainingLength]:
    schedule = draw(st.sampled_from(["cosine", "wsd", "constant"]))
    total = draw(st.integers(2, 300))
    values = PretrainSettings(
        schedule=schedule,
        learning_rate=1e-3,
        min_learning_rate=draw(st.sampled_from([0.0, 1e-5])),
        warmup_steps=draw(st.integers(0, total - 1)),
        decay_fraction=draw(st.floats(0.01, 1.0)),
    )
    length, step = TrainingLength(initial_steps=total), 0
    for _ in range(draw(st.integers(0, 5))):
        step = draw(st.integers(step, length.total_steps - 1))
        least = max(step, values.warmup_steps, length.decay_at or 0) + 1
        total = draw(st.integers(least, least + 300))
        decay_at = length.decay_at
        if schedule != "cosine" and draw(st.booleans()):
            decay_at = draw(st.integers(step, total - 1))
        length = with_change(length, moved(step, total, decay_at))
    return values, length


def recurrence(values: PretrainSettings, length: TrainingLength) -> list[float]:
    """The rates step by step: a step of the decay takes an equal share of what is left of it."""
    done, found, total, decay_at = 0.0, [], length.initial_steps, None
    for step in range(length.total_steps):
        for change in length.changes:
            if change.step == step:
                total, decay_at = change.total_steps, change.decay_at
        peak, low = values.learning_rate, values.min_learning_rate
        if step < values.warmup_steps:
            found.append(peak * (step + 1) / values.warmup_steps)
            continue
        left = math.cos(math.pi * done / 2) ** 2 if values.schedule == "cosine" else 1 - done
        found.append(low + (peak - low) * left)
        if values.schedule == "cosine":
            decays = True
        elif decay_at is not None:
            decays = step >= decay_at
        else:
            tail = max(1, round(values.decay_fraction * total))
            decays = values.schedule == "wsd" and step >= total - tail
        if decays:
            done += (1 - done) / (total - step)
    return found


@settings(max_examples=200)
@given(runs())
def test_equals_the_recurrence(run: tuple[PretrainSettings, TrainingLength]) -> None:
    values, length = run
    found = [learning_rate(values, step, length) for step in range(length.total_steps)]
    assert found == pytest.approx(recurrence(values, length), rel=1e-9, abs=1e-15)


@settings(max_examples=200)
@given(runs())
def test_continuous_never_rising_and_lowest_at_the_end(
    run: tuple[PretrainSettings, TrainingLength],
) -> None:
    values, length = run
    curve = [learning_rate(values, step, length) for step in range(length.total_steps + 1)]
    after = curve[values.warmup_steps :]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(after))
    assert all(values.min_learning_rate <= rate <= values.learning_rate for rate in after)
    if values.schedule != "constant" or length.decay_at is not None:
        assert curve[-1] == pytest.approx(values.min_learning_rate, abs=1e-15)
    for number, change in enumerate(length.changes):
        earlier = TrainingLength(
            initial_steps=length.initial_steps, changes=length.changes[:number]
        )
        for step in range(change.step):  # what was used stays, to the bit
            assert learning_rate(values, step, earlier) == curve[step]
        same = [learning_rate(values, change.step, h) for h in (earlier, length)]
        others = {c.step for c in length.changes[number + 1 :]}
        if change.step not in others:
            assert same[0] == pytest.approx(same[1], rel=1e-12, abs=1e-15)


def test_survives_a_checkpoint() -> None:
    length = TrainingLength(initial_steps=20, changes=(moved(3, 30), moved(5, 40, 35)))
    assert TrainingLength.from_dict(json.loads(json.dumps(asdict(length)))) == length
    for raw in ({}, {"initial_steps": "2", "changes": []}, {"initial_steps": 2}, []):
        with pytest.raises(DataError, match=r"^length "):
            TrainingLength.from_dict(raw)
    for change in ({"step": 1}, {"step": -1, "total_steps": 4}, {"step": 1.5, "total_steps": 4}):
        with pytest.raises(DataError, match=r"^length "):
            TrainingLength.from_dict({"initial_steps": 2, "changes": [change]})


def test_a_checkpoint_of_other_rates_is_refused() -> None:
    values = PretrainSettings(warmup_steps=4)
    saved = TrainingLength(initial_steps=20, changes=(moved(3, 30),))
    later = with_change(saved, moved(9, 40))
    check_saved_length(values, later, saved, 9)  # joined after the checkpoint
    with pytest.raises(DataError, match=r"changes of the checkpoint's length .* restore"):
        check_saved_length(values, TrainingLength(initial_steps=20), saved, 9)
    with pytest.raises(DataError, match="restore"):
        check_saved_length(values, later, saved, 10)
    with pytest.raises(ConfigError, match="started with 20 steps, settings and data give 25"):
        check_saved_length(
            values, TrainingLength(initial_steps=25), TrainingLength(initial_steps=20), 9
        )
    # Where no rate differs, another number of steps is as good.
    flat = PretrainSettings(warmup_steps=4, schedule="constant")
    check_saved_length(flat, TrainingLength(initial_steps=25), TrainingLength(initial_steps=20), 9)
