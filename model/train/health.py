"""Judgement of a batch, after its gradients and before the weights change.

    loss or gradient not finite ──────────────────────────────▶ stop | skip the batch
    loss far above its window   ──▶ nothing | warn | skip the batch | roll back
    else ─▶ train; the loss joins the window

    z = (loss - median) / (1.4826 x MAD) over the last losses: the robust z-score (Iglewicz and
    Hoaglin 1993), which one earlier spike in the window does not move.

Rolling back goes to a checkpoint before the spike and passes over the batches from there through
the spike, as PaLM's authors did by hand (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1: some
100 steps back, 200 to 500 batches skipped; the same batches did no harm at another time).

Every rank judges the same numbers, and all that a judgement depends on is in the checkpoint, so a
run that was killed anywhere and resumed comes to the same judgements.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from common.config import NOT_IN_KEY, Config
from common.errors import DataError, StageError
from common.ranges import Ge, Limit, Minutes, PositiveFloat, Steps

GAUSSIAN = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
FLOOR = 1e-3
"""Least scale of the z-score, relative to the median: on a plateau the deviation may be nearly 0,
and then the smallest rise would count as a spike."""


class HealthError(StageError):
    """Training was stopped for its numbers; the weights are those before that batch."""


class NonFiniteError(HealthError):
    """Loss or gradient became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class HealthSettings(Config):
    """Reaction to losses and gradients that go wrong, or to a training that hangs."""

    non_finite: Literal["stop", "skip"] = field(default="stop", metadata=NOT_IN_KEY)
    """A loss or gradient that is infinite or not a number: stop with a checkpoint of the state
    before, or skip the batch. The weights are untouched in either case."""
    spike: Literal["off", "warn", "skip", "rollback"] = "warn"
    """A loss far above its window: note it; leave the batch out; or roll back and skip the batches
    from there through the spike."""
    spike_threshold: PositiveFloat = 8.0
    """Robust z-score above which a loss is a spike."""
    spike_window: Annotated[int, Ge(4), Limit(10**6)] = 128
    """Losses that a loss is compared with, the last ones that were trained on. Those of the warm-up
    are not among them: nothing is a spike until so many steps after it."""
    rollback_steps: Steps = 100
    """A rollback goes at least so many steps back before the spike: what made it may have begun
    earlier. PaLM: roughly 100. So many must lie between the oldest and the newest checkpoint of
    `checkpoints.keep_last`; `checkpoints.interval` decides how much farther back it goes."""
    max_in_a_row: Annotated[int, Ge(1), Limit(10**6)] = field(default=10, metadata=NOT_IN_KEY)
    """Batches skipped one after the other, or rollbacks to one checkpoint, after which the run
    stops: then it is not the data."""
    step_timeout_minutes: Minutes = field(default=15.0, metadata=NOT_IN_KEY)
    """Without a sign of progress for so long, every rank ends with a reason; minutes. A step, one
    validation batch, a save or its copy each count as progress."""
    first_step_timeout_minutes: Minutes = field(default=60.0, metadata=NOT_IN_KEY)
    """The same until the first step is done: building, reading a checkpoint, compiling; minutes."""


@dataclass(kw_only=True)
class HealthState:
    """State that judgements depend on; in every checkpoint."""

    window: list[float] = field(default_factory=list)
    """Last losses that were trained on, oldest first."""
    in_a_row: int = 0
    """Batches skipped since the last step."""
    rollback_step: int = -1
    """Checkpoint that the last rollback went to; -1 = there was none."""
    rollbacks: int = 0
    """Rollbacks to that checkpoint."""
    skipped: list[tuple[int, int]] = field(default_factory=list)
    """First and last number of each run of batches that were consumed and not trained on."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what is in a checkpoint. Raises DataError for anything else."""
        try:
            skipped = [(int(first), int(last)) for first, last in values["skipped"]]
            return cls(**{**values, "skipped": skipped})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"a checkpoint's health state cannot be read: {error!r}") from error


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Decision about a batch."""

    action: Literal["train", "skip", "rollback", "stop"]
    anomaly: Literal["", "non-finite", "spike"] = ""
    """Fault found in it; "" when there is none."""
    z: float | None = None
    """Robust z-score of the loss; None where it is not judged."""


class Health:
    """Judges each batch of a run."""

    def __init__(self, settings: HealthSettings, *, warmup_steps: int) -> None:
        self.settings = settings
        self.warmup_steps = warmup_steps
        self.state = HealthState()

    def judge(self, *, loss: float, grad_norm: float) -> Verdict:
        """Decide about the batch that gave this loss and gradient.

        Changes nothing; `trained`, `skipped` and `rolled_back` record what was done.
        """
        exhausted = self.state.in_a_row >= self.settings.max_in_a_row
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            stop = exhausted or self.settings.non_finite == "stop"
            return Verdict(action="stop" if stop else "skip", anomaly="non-finite")
        z = self.zscore(loss)
        if z is None or z <= self.settings.spike_threshold:
            return Verdict(action="train", z=z)
        if self.settings.spike == "warn":
            return Verdict(action="train", anomaly="spike", z=z)
        if self.settings.spike == "skip":
            return Verdict(action="stop" if exhausted else "skip", anomaly="spike", z=z)
        exhausted |= self.state.rollbacks >= self.settings.max_in_a_row
        return Verdict(action="stop" if exhausted else "rollback", anomaly="spike", z=z)

    def zscore(self, loss: float) -> float | None:
        """Robust z-score of a loss; None in the warm-up and while the window fills."""
        window = self.state.window
        if self.settings.spike == "off" or len(window) < self.settings.spike_window:
            return None
        middle = statistics.median(window)
        deviation = statistics.median(abs(value - middle) for value in window)
        return (loss - middle) / max(GAUSSIAN * deviation, FLOOR * abs(middle))

    def trained(self, step: int, loss: float) -> None:
        """Record that step number `step` was made."""
        self.state.in_a_row = 0
        if self.settings.spike != "off" and step >= self.warmup_steps:
            self.state.window = [*self.state.window, loss][-self.settings.spike_window :]

    def skipped(self, batch: int) -> None:
        """Record that a batch was consumed and not trained on."""
        self.state.in_a_row += 1
        self._add_skipped(batch, batch)

    def rolled_back(self, saved: HealthState, *, to_step: int, first: int, last: int) -> None:
        """Take up the state of the checkpoint of step `to_step`; batches first to last are skipped.

        The number of rollbacks to one checkpoint is not undone with the rest.
        """
        again = to_step == self.state.rollback_step
        saved.rollbacks = self.state.rollbacks + 1 if again else 1
        saved.rollback_step = to_step
        self.state = saved
        self._add_skipped(first, last)

    @property
    def num_skipped(self) -> int:
        """Batches that were consumed and not trained on."""
        return sum(last - first + 1 for first, last in self.state.skipped)

    def _add_skipped(self, first: int, last: int) -> None:
        runs = self.state.skipped
        if runs and runs[-1][1] == first - 1:
            first = runs.pop()[0]
        runs.append((first, last))


def anomaly_event(
    verdict: Verdict,
    *,
    loss: float,
    grad_norm: float,
    step: int,
    batch: int,
    samples: tuple[int, int],
    culprits: list[int],
) -> dict[str, Any]:
    """Describe in JSON values what was found in a batch, and what is to be done with it.

    step: completed ones before it; samples: numbers of the batch's first and last one; culprits:
    of those whose loss is not finite.
    """
    return {
        "step": step + 1,
        "batch": batch,
        "what": verdict.anomaly,
        "action": "warn" if verdict.action == "train" else verdict.action,
        "loss": _json_number(loss),
        "grad_norm": _json_number(grad_norm),
        "z": verdict.z,
        "samples": list(samples),
        "culprits": culprits,
    }


def error_of(event: Mapping[str, Any], checkpoints: Path) -> HealthError:
    """The error that ends the training because of an event."""
    kind = NonFiniteError if event["what"] == "non-finite" else HealthError
    return kind(
        f"{describe(event)} The weights are those after step {event['step'] - 1}, saved in "
        f"{checkpoints}. Look at these samples, lower learning_rate, or let "
        f"health.{event['what'].replace('-', '_')} skip them."
    )


def describe(event: Mapping[str, Any]) -> str:
    """Say in a sentence what was found in a batch, where, and what was done."""
    first, last = event["samples"]
    if event["what"] == "spike":
        found = f"has a loss of {event['loss']:.4f}, {event['z']:.1f} deviations above its window"
    else:
        found = f"is not finite (loss {event['loss']}, gradient norm {event['grad_norm']})"
    where = f"samples {event['culprits']}"
    if not event["culprits"]:
        where = f"samples {first} to {last}"
        if event["what"] == "non-finite":
            where = f"any of its {where} (their losses are finite, a gradient is not)"
    done = {
        "warn": "It was trained on.",
        "skip": "The batch was skipped.",
        "rollback without checkpoint": "No checkpoint lies far enough back: the batch was skipped.",
        "rollback": f"Rolled back to step {event.get('to_step')}; "
        f"batches {event.get('skipped')} are skipped.",
        "stop": "",
    }[event["action"]]
    return f"step {event['step']} (batch {event['batch']}) {found}, from {where}. {done}".rstrip()


def _json_number(value: float) -> float | str:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else str(value)
