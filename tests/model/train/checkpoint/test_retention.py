"""Retention of checkpoints, as a rule on numbers."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError
from model.train.checkpoint.retention import (
    CheckpointInfo,
    CheckpointSettings,
    kept_steps,
    permanent_steps,
)

LOSSES = st.one_of(st.none(), st.floats(0, 10))
HISTORY = st.lists(st.tuples(st.booleans(), LOSSES), min_size=1, max_size=30).map(
    lambda rows: [
        CheckpointInfo(
            step=10 * (i + 1) + (0 if regular else 3), regular=regular, validation_loss=loss
        )
        for i, (regular, loss) in enumerate(rows)
    ]
)
SETTINGS = st.builds(
    lambda last, every, best: CheckpointSettings(
        interval=10, keep_last=last, keep_every=10 * every, keep_best=best
    ),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 3),
)


@given(HISTORY, SETTINGS)
def test_what_is_kept(history: list[CheckpointInfo], settings: CheckpointSettings) -> None:
    stay = kept_steps(history, settings)
    regular = [entry.step for entry in history if entry.regular]
    assert history[-1].step in stay
    assert set(regular[-settings.keep_last :]) <= stay
    assert permanent_steps(history, settings) <= stay
    if settings.keep_every:
        assert {step for step in regular if step % settings.keep_every == 0} <= stay
    losses = sorted(e.validation_loss for e in history if e.validation_loss is not None)
    best = [e.validation_loss for e in history if e.step in stay and e.validation_loss is not None]
    assert sorted(best)[: settings.keep_best] == losses[: settings.keep_best]


def test_a_loss_that_is_no_number_is_not_the_best() -> None:
    history = [
        CheckpointInfo(step=10 * (i + 1), regular=True, validation_loss=loss)
        for i, loss in enumerate((float("nan"), 2.0, float("-inf"), 3.0))
    ]
    assert permanent_steps(history, CheckpointSettings(interval=10, keep_best=1)) == {20}


@given(HISTORY, SETTINGS)
def test_extra_checkpoints_take_no_regular_ones_place(
    history: list[CheckpointInfo], settings: CheckpointSettings
) -> None:
    """Else an interrupted run would find others to roll back to than an uninterrupted one."""
    unmeasured = [dataclasses.replace(entry, validation_loss=None) for entry in history]
    regular = [entry for entry in unmeasured if entry.regular]
    found = {step for step in kept_steps(unmeasured, settings) if step % 10 == 0}
    assert found == kept_steps(regular, settings)


@given(HISTORY, SETTINGS)
def test_retention_forgets_only_what_it_would_have_forgotten_before(
    history: list[CheckpointInfo], settings: CheckpointSettings
) -> None:
    """Applied after each save, it leaves what it leaves when applied once."""
    present: list[CheckpointInfo] = []
    for entry in history:
        present.append(entry)
        stay = kept_steps(present, settings)
        present = [e for e in present if e.step in stay]
    assert {e.step for e in present} == kept_steps(history, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (CheckpointSettings(interval=0), r"checkpoints\.interval = 0"),
        (CheckpointSettings(keep_best=-1), r"checkpoints\.keep_best = -1"),
        (CheckpointSettings(interval=100, keep_every=250), "no multiple of interval = 100"),
    ],
)
def test_refused(settings: CheckpointSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(settings, "pretrain.checkpoints")
