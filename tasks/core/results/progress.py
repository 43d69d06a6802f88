"""Position of a training in a store: its step, loss and remaining time, from its own files."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import SteelError
from model.train.run.folder import JOB_FILE, METRICS_FILE
from model.train.run.journal import read_journal_rows
from tasks.core.results.entries import Entry
from tasks.core.waiting.words import PROGRESS

TAIL_BYTES = 400_000
"""Bytes at the end of metrics.jsonl that are read: some hundred steps."""
PACE_STEPS = 50
"""Newest measured steps that the remaining time follows from."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """The place of a training in its steps."""

    step: int
    """Completed steps."""
    steps: int | None
    """Steps of the whole training; None where it is not known."""
    loss: float | None
    """Training loss of the newest step, nats per token."""
    seconds_left: float | None
    """Remaining time at the present pace; None before it is known."""
    at: float
    """Time of the newest measurement, in seconds since 1970."""

    @property
    def words(self) -> str:
        """`step 120 of 600, loss 3.41, 12 min left`."""
        parts = [f"step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def training_position(entry: Entry) -> Position | None:
    """Position of a training; None for a stage that trains nothing, or has not begun to."""
    for place in (entry.folder, entry.folder / ".scratch"):
        rows = [row for row in _tail(place / METRICS_FILE) if "train/loss" in row["metrics"]]
        if rows:
            break
    else:
        return None
    newest, total = rows[-1], _total_steps(entry)
    recent = [row for row in rows[-PACE_STEPS:] if row["time"] >= entry.about.get("started", 0)]
    left = None
    if total and len(recent) > 1 and recent[-1]["step"] > recent[0]["step"]:
        pace = (recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"])
        left = max(0.0, pace * (total - newest["step"]))
    return Position(
        step=newest["step"],
        steps=total,
        loss=newest["metrics"]["train/loss"],
        seconds_left=left if entry.state == "running" else None,
        at=newest["time"],
    )


def told_progress(entry: Entry) -> dict[str, Any] | None:
    """The last `done`, `total`, `what` and time of its end that a running stage has told; None for
    one that has told nothing, or does not run."""
    if entry.state != "running":
        return None
    with contextlib.suppress(OSError, ValueError, TypeError):
        told = json.loads((entry.folder / PROGRESS).read_text(encoding="utf-8"))
        if told["total"] > 0 and told["done"] >= 0:
            return dict(told)
    return None


def _tail(path: Path) -> Iterator[dict[str, Any]]:
    """The newest rows of a file of measurements, oldest first."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines if size <= TAIL_BYTES else lines[1:]:
        try:
            row = json.loads(line)
            fits = isinstance(row["metrics"], dict) and isinstance(row["step"], int)
        except (ValueError, KeyError, TypeError):
            continue  # the line that is being written
        if fits:
            yield row


def _total_steps(entry: Entry) -> int | None:
    """Steps of the whole training, as its journal, its job or its configuration says."""
    if (told := told_progress(entry)) is not None:
        return int(told["total"])
    with contextlib.suppress(SteelError):
        changes = [row["total_steps"] for row in read_journal_rows(entry.folder)]
        if changes:
            return int(changes[-1])
    with contextlib.suppress(OSError, ValueError):
        job = json.loads((entry.folder / JOB_FILE).read_text(encoding="utf-8"))
        if (found := _steps_in(job)) is not None:
            return found
    return _steps_in(entry.about.get("config", {}))


def _steps_in(content: Any) -> int | None:
    if not isinstance(content, Mapping):
        return None
    for name in ("total_steps", "steps"):
        if isinstance(content.get(name), int) and content[name] > 0:
            return int(content[name])
    return _steps_in(content.get("settings"))
