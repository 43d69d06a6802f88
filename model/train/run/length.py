"""Length of a run in steps, and its changes while the run goes on.

    steps 0 ─────────── c1 ─────────── c2 ───────▶ total_steps
    initial_steps       change 1       change 2    = the last change's, or `initial_steps`

Appended data or a request may move the end of a run, or begin the decay of its learning rate, at a
step boundary. Each change has the step from which it holds, so that the rate of every step, past
and future, stays a function of (settings, length, step) (optim/schedule.py): resuming needs no
other state. The run's journal and every checkpoint's trainer.json have the changes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from common.errors import DataError

LengthPolicy = Literal["keep", "extend"]
"""Effect of an append on the number of steps: none, or the steps of the new samples on top."""


@dataclass(frozen=True, kw_only=True)
class LengthChange:
    """The length of a run from one step on."""

    step: int
    """Completed steps when it was made: the first step it governs has this (0-based) number."""
    total_steps: int
    """Steps of the whole run."""
    decay_at: int | None = None
    """Step from which the rate falls to its minimum at `total_steps`; None: where the schedule
    itself puts it."""

    def __post_init__(self) -> None:
        for number in (self.step, self.total_steps, self.decay_at or 0):
            if type(number) is not int or number < 0:
                raise DataError(f"length change {asdict(self)}: steps are integers, 0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainingLength:
    """Number of steps of a run and all changes of it, in the order they were made."""

    initial_steps: int
    """Steps that the run started with."""
    changes: tuple[LengthChange, ...] = ()
    """Ascending in `step`; several may share one."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, as known now."""
        return self.changes[-1].total_steps if self.changes else self.initial_steps

    @property
    def decay_at(self) -> int | None:
        """The requested beginning of the decay, as known now."""
        return self.changes[-1].decay_at if self.changes else None

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """Read what is in a checkpoint's trainer.json. Raises DataError."""
        if not isinstance(raw, Mapping) or type(raw.get("initial_steps")) is not int:
            raise DataError(f"length {raw!r} lacks the number of initial_steps")
        try:
            changes = tuple(LengthChange(**change) for change in raw["changes"])
        except (KeyError, TypeError) as error:
            raise DataError(f"length {raw!r}: {error}") from None
        return cls(initial_steps=raw["initial_steps"], changes=changes)
