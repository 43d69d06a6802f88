"""Interval and retention of checkpoints: the settings' group `checkpoints`.

    step    1000   2000   3000   4000   5000   6000   6127
    saved   ✓      ✓      ✓      ✓      ✓      ✓      (stopped by SIGTERM: an extra one)
    kept    -      best   -      5 k*   5 k*   last 3 last 3, newest      *keep_every = 4000 …

An extra checkpoint (on SIGTERM, on a failure, at the end) is kept while it is the newest and takes
no other's place: what a run that was interrupted finds to roll back to is what an uninterrupted
one would find.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from common.config import Config
from common.errors import ConfigError
from common.ranges import Ge, Limit, Steps


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(Config):
    """Interval and retention of checkpoints."""

    RENAMED: ClassVar[Mapping[str, str]] = {"every": "interval"}

    interval: Annotated[int, Ge(1), Limit(10**10)] = 1000
    """Steps between checkpoints; one is also written at the end, on SIGTERM and when health stops
    the run."""
    keep_last: Annotated[int, Ge(1), Limit(10**6)] = 3
    """Newest complete checkpoints that are kept."""
    keep_every: Steps = 0
    """Checkpoints at multiples of so many steps are kept for good; 0 = none are. A multiple of
    `interval`."""
    keep_best: Annotated[int, Ge(0), Limit(10**6)] = 1
    """Checkpoints with the lowest validation loss that are kept. Those count whose very step was
    validated (`eval_interval`)."""
    export: bool = True
    """Each checkpoint kept by `keep_every` or `keep_best` also becomes a Transformers folder,
    exports/step-…, written in the background by a process of its own."""

    def check(self) -> Iterator[ConfigError]:
        if self.keep_every % self.interval:
            yield ConfigError(
                f"keep_every = {self.keep_every} is no multiple of interval = {self.interval}, so "
                "most of these steps have no checkpoint; change one"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Facts about a complete checkpoint by which it is kept or not."""

    step: int
    """Completed optimizer steps."""
    regular: bool
    """Written because `interval` said so; False: an extra one."""
    validation_loss: float | None
    """Measured at this very step, nats per token; None when it was not."""


def permanent_steps(entries: Iterable[CheckpointInfo], settings: CheckpointSettings) -> set[int]:
    """Steps of the checkpoints that `keep_every` and `keep_best` keep: those that are exported."""
    listed = list(entries)
    every = settings.keep_every
    periodic = {e.step for e in listed if e.regular and every and e.step % every == 0}
    return periodic | set(best_steps(listed, settings.keep_best))


def best_steps(entries: Iterable[CheckpointInfo], number: int) -> list[int]:
    """Steps of at most so many checkpoints, the ones of the lowest validation losses first."""
    measured = [
        (entry.validation_loss, entry.step)
        for entry in entries
        if entry.validation_loss is not None and math.isfinite(entry.validation_loss)
    ]
    return [step for _, step in sorted(measured)[:number]]


def kept_steps(entries: Iterable[CheckpointInfo], settings: CheckpointSettings) -> set[int]:
    """Steps of all checkpoints that are not to be removed; never empty where there are some."""
    listed = sorted(entries, key=lambda entry: entry.step)
    regular = [entry.step for entry in listed if entry.regular]
    newest = {entry.step for entry in listed[-1:]}
    return permanent_steps(listed, settings) | set(regular[-settings.keep_last :]) | newest
