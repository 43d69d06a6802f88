"""Notes of flow runs: .steel/runs/<flow run>.json, with the process that works on each.

A run's process and its watchdog write them. Whoever comes after both were killed, or after a power
cut, learns from them what was left.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from common.files import write_status
from flows.environment import STATE

NOTES = STATE / "runs"


def write_note(flow_run: str, note: Mapping[str, Any]) -> None:
    """Write the note of a flow run; its own process and its watchdog may do so at the same time."""
    NOTES.mkdir(parents=True, exist_ok=True)
    write_status(NOTES / f"{flow_run}.json", note)


def read_note(flow_run: str) -> dict[str, Any] | None:
    """The note of a flow run; None where there is none that can be read."""
    try:
        note = json.loads((NOTES / f"{flow_run}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def remove_note(flow_run: str) -> None:
    """Remove the note of a flow run, if there is one."""
    (NOTES / f"{flow_run}.json").unlink(missing_ok=True)


def notes_of_this_machine() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each flow run that a process of this machine works on, or did, and its note."""
    for path in NOTES.glob("*.json"):
        note = read_note(path.stem)
        if note is None or note.get("host") != socket.gethostname():
            continue
        if {"pid", "started"} <= note.keys():
            yield path.stem, note
