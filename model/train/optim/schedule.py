"""The learning rate as a function of the step: no state, so resuming needs none.

rate   cosine  /‾‾\\__      wsd  /‾‾‾‾\\      constant  /‾‾‾‾‾‾, and  /‾‾‾‾\\  once a decay
              /     \\_          /      \\              /             /      \\  is asked for
step   0     w        N        0 w   N-d N            0 w     N     0 w     D N

Every shape is high + (low - high) f(p), where p in [0, 1] says how far the decay has come and is
piecewise linear in the step: 0 until the decay begins at step D, then straight to 1 at the end N.
When the end moves at step c (run/length.py), p stays what it is at c and goes from there:

p      1 |      N0 / . N1     extended at c: the rate is continuous, never rises, and is lowest at
         |        /.          the new end N1. cosine goes on falling, more slowly; wsd and constant
         |      ./            hold the rate until the new decay begins.
       0 |____/  c
"""

import math
from dataclasses import asdict, replace

from common.errors import ConfigError, DataError
from model.train.config import PretrainSettings
from model.train.run.folder import JOURNAL_FILE
from model.train.run.length import TrainingLength


def learning_rate(settings: PretrainSettings, step: int, length: TrainingLength) -> float:
    """Learning rate of the step with number `step` (0-based).

    With w = warmup_steps, lr, lo = learning_rate, min_learning_rate and p from `decay_progress`:

    - warm-up, step < w: lr (step + 1) / w, so that the first step already moves the weights.
    - cosine (section 5): lo + (lr - lo) (1 + cos(pi p)) / 2, the decay beginning at w.
    - wsd (Hu et al. 2024, arXiv 2404.06395): lo + (lr - lo) (1 - p), the decay beginning
      `decay_fraction` of all steps before the end, or where `steel reschedule --decay-at` puts it.
    - constant: the same with no decay until one is asked for (Hägele et al. 2024, arXiv
      2405.18392, show that such a late decay reaches what cosine does).
    """
    high, low, warmup = settings.learning_rate, settings.min_learning_rate, settings.warmup_steps
    if step < warmup:
        return high * (step + 1) / warmup
    progress = decay_progress(settings, step, length)
    if settings.schedule == "cosine":
        return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return low + (high - low) * (1.0 - progress)


def is_multiple(step: int, interval: int) -> bool:
    """Return True when an interval of steps is over; never for interval 0."""
    return interval > 0 and step % interval == 0


def decay_progress(settings: PretrainSettings, step: int, length: TrainingLength) -> float:
    """Progress of the decay before the step with number `step`; in [0, 1].

    Only changes that were made at or before the step count, so no later change moves a rate that
    was used.
    """
    progress, end, decay_at = 0.0, length.initial_steps, None
    begin = _decay_start(settings, end, decay_at, now=0)
    for change in length.changes:
        if change.step > step:
            break
        if (change.total_steps, change.decay_at) == (end, decay_at):
            continue  # not even a rounding error
        progress = _advance(progress, begin, end, change.step)
        end, decay_at = change.total_steps, change.decay_at
        begin = _decay_start(settings, end, decay_at, now=change.step)
    return _advance(progress, begin, end, step)


def check_saved_length(
    settings: PretrainSettings, length: TrainingLength, saved: TrainingLength, step: int
) -> None:
    """Refuse to go on from a checkpoint after `step` steps that had other rates until there.

    Args:
        length: the run's, as configured and as its journal says.
        saved: the checkpoint's. It may lack later changes, and have ones that never came to hold.

    Raises:
        ConfigError: the run started with another number of steps, and that shows in the rates.
        DataError: changes until `step` are missing from the run's journal, or are others.
    """
    old = [change for change in saved.changes if change.step < step]
    now = [change for change in length.changes if change.step < step]
    if old != now:
        raise DataError(
            f"changes of the checkpoint's length are {[asdict(c) for c in old]}, those of the "
            f"run {[asdict(c) for c in now]}: restore the run's {JOURNAL_FILE}"
        )
    if decay_progress(settings, step, saved) != decay_progress(
        settings, step, replace(length, changes=saved.changes)
    ):
        raise ConfigError(
            f"pretrain: the run started with {saved.initial_steps} steps, settings and data give "
            f"{length.initial_steps} now: its learning rates would be others. Set steps back and "
            "move the end with `steel reschedule RUN --steps N`, or start a new run"
        )


def _decay_start(
    settings: PretrainSettings, end: int, decay_at: int | None, *, now: int
) -> int | None:
    """The step at which the decay (re)starts, not before `now`; None = never."""
    if settings.schedule == "cosine":
        wanted = settings.warmup_steps
    elif decay_at is not None:
        wanted = decay_at
    elif settings.schedule == "wsd":
        wanted = end - max(1, round(settings.decay_fraction * end))
    else:
        return None
    return max(wanted, now, settings.warmup_steps)


def _advance(progress: float, begin: int | None, end: int, step: int) -> float:
    """Progress at `step` on the straight line from (begin, progress) to (end, 1)."""
    if begin is None or step <= begin:
        return progress
    return progress + (1.0 - progress) * min(1.0, (step - begin) / max(1, end - begin))
