"""Timeline of a pretraining: its sessions, changes of data and length, and skipped batches.

sessions.jsonl ──▶ begun, resumed, other number of processes      model/train/run/sessions.py
journal.json   ──▶ data appended, length changed                   model/train/run/journal.py
health.jsonl   ──▶ batches skipped, rolled back                   model/train/trainer.py
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.train.run.folder import HEALTH_FILE, SESSIONS_FILE
from model.train.run.journal import read_journal_rows
from model.train.run.metrics import read_metrics
from model.train.run.sessions import Session, read_sessions

EventKind = Literal["resumed", "rescaled", "data appended", "length changed", "batches skipped"]


@dataclass(frozen=True, kw_only=True)
class TimelineEvent:
    """Interruption or change of a pretraining, at a step boundary."""

    step: int
    """Completed steps."""
    kind: EventKind
    fields: dict[str, Any] = field(default_factory=dict)
    """Facts for its sentence, which the report writes in its own language: `how` the session before
    ended; processes `before` and `after`; `total` steps; `what` was found at which `batch`, the
    `action`, and the step that a rollback went to."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Sessions and events of a run."""

    sessions: list[Session] = field(default_factory=list)
    """Sessions, oldest first."""
    events: list[TimelineEvent] = field(default_factory=list)
    """Interruptions and changes, by step; empty for a run in one piece."""


def read_timeline(run: Path) -> Timeline:
    """Read a run's folder, of which any file may be absent. Raises DataError for a damaged one."""
    sessions = read_sessions(run / SESSIONS_FILE)
    events = [*_session_events(sessions), *map(_from_health, _health_events(run / HEALTH_FILE))]
    for row in read_journal_rows(run):
        kind: EventKind = "data appended" if row["kind"] == "append" else "length changed"
        fields = {"total": row["total_steps"]}
        events.append(TimelineEvent(step=row["step"], kind=kind, fields=fields))
    return Timeline(sessions=sessions, events=sorted(events, key=lambda event: event.step))


def _session_events(sessions: list[Session]) -> list[TimelineEvent]:
    """An event for each session but the first: `rescaled` where the number of processes differs."""
    events = []
    for before, session in itertools.pairwise(sessions):
        fields: dict[str, Any] = {"how": before.how}
        kind: EventKind = "resumed"
        if before.num_processes != session.num_processes:
            kind = "rescaled"
            fields |= {"before": before.num_processes, "after": session.num_processes}
        events.append(TimelineEvent(step=session.step, kind=kind, fields=fields))
    return events


def _health_events(path: Path) -> list[dict[str, Any]]:
    """Events that the health monitor acted upon."""
    return [event for event in read_metrics(path) if event["action"] != "warn"]


def _from_health(event: dict[str, Any]) -> TimelineEvent:
    told = ("what", "batch", "action", "to_step")
    # A step that did not happen is the boundary before it.
    step = event.get("to_step", event["step"] - 1)
    fields = {name: event[name] for name in told if name in event}
    return TimelineEvent(step=step, kind="batches skipped", fields=fields)
