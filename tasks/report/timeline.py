"""The course of a pretraining: who took it up when, and what was changed or left out on the way.

sessions.jsonl ──▶ begun, resumed, other number of processes      model/train/run/sessions.py
journal.json   ──▶ data appended, another end                     model/train/run/journal.py
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

Kind = Literal["resumed", "rescaled", "data appended", "end moved", "batches skipped"]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at a step boundary."""

    step: int
    """Completed steps."""
    kind: Kind
    """What, in a word."""
    text: str
    """What exactly."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Everything that happened to a run; empty for one that nothing happened to."""

    sessions: list[Session] = field(default_factory=list)
    """Oldest first."""
    marks: list[Mark] = field(default_factory=list)
    """By step."""


def read_course(run: Path) -> Course:
    """From a run's folder, of which any file may be absent. Raises DataError for a damaged one."""
    sessions = read_sessions(run / SESSIONS_FILE)
    marks = [*_takeovers(sessions), *map(_of_event, _events(run / HEALTH_FILE))]
    for row in read_journal_rows(run):
        kind: Kind = "data appended" if row["kind"] == "append" else "end moved"
        text = f"{kind}: {row['total_steps']:,} steps from here on"
        marks.append(Mark(step=row["step"], kind=kind, text=text))
    return Course(sessions=sessions, marks=sorted(marks, key=lambda mark: mark.step))


def _takeovers(sessions: list[Session]) -> list[Mark]:
    """A mark for each session but the first; the number of processes counts more than the stop."""
    marks = []
    for before, session in itertools.pairwise(sessions):
        how = "after a kill" if before.how == "killed" else f"after it {_ended(before)}"
        if before.num_processes != session.num_processes:
            text = f"{before.num_processes} -> {session.num_processes} processes, {how}"
            marks.append(Mark(step=session.step, kind="rescaled", text=text))
        else:
            marks.append(Mark(step=session.step, kind="resumed", text=f"resumed {how}"))
    return marks


def _ended(session: Session) -> str:
    return {"stopped": "was stopped", "done": "was done"}.get(session.how, session.how)


def _events(path: Path) -> list[dict[str, Any]]:
    """What health found and did something about."""
    return [event for event in read_metrics(path) if event["action"] != "warn"]


def _of_event(event: dict[str, Any]) -> Mark:
    text = f"{event['what']} at batch {event['batch']}: {event['action']}"
    if event["action"] == "rollback":
        text += f" to step {event['to_step']}"
    # A step that did not happen is the boundary before it.
    step = event.get("to_step", event["step"] - 1)
    return Mark(step=step, kind="batches skipped", text=text)
