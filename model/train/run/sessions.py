"""Sessions of a run, in sessions.jsonl: lines for each time that processes took it up.

    {"time": …, "event": "begin", "session": 3, "step": 120, "batch": 120, "num_processes": 2,
     "device": "NVIDIA H200", "host": "node-3", "commit": "1f0c…", "software": {"torch": …},
     "resolved": {"num_parameters": 1120000000, "steps": 1060000, "precision": "bfloat16",
                  "kernels": {"swiglu": "eager", …}, "kernels_replaced": {"swiglu": "triton -> …"}}}
    {"time": …, "event": "energy", "session": 3, "step": 130, "joules": 81230.5}
    {"time": …, "event": "end", "session": 3, "step": 250, "how": "stopped"}

    how    done · stopped (asked to, with a complete checkpoint) · failed (and with what)
           a session without an end was killed, or replaced by the next one before it could note it
    joules of all GPUs in this session so far, the last line counts; null: no longer readable.
           No line where energy is not measured (model/train/callbacks/energy.py)

The numbers are those of the run's lease (model/train/run/lease.py); one is missing where a session
ended before its first step.

The file is only ever added to. It also has steps that a kill threw away; metrics.jsonl has the
steps that the weights come from.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError
from model.train.run.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Session:
    """One time that processes took up a run."""

    number: int
    """Number of its lease."""
    step: int
    """Completed steps when it began: 0, or those of the checkpoint it resumed from."""
    num_processes: int
    """Ranks."""
    device: str
    """Name of rank 0's device."""
    began: float
    """Time of its beginning, seconds since 1970."""
    how: str = "killed"
    """Its end as above; "killed" where no process was left to note it, where the next session
    replaced it, or while it still runs."""
    last_step: int | None = None
    """Completed steps when it ended; None where no process was left to note them."""
    joules: float | None = None
    """Energy of its GPUs as it was last noted; None where it is not known."""
    about: dict[str, Any] = field(default_factory=dict)
    """Host, commit, versions."""
    resolved: dict[str, Any] = field(default_factory=dict)
    """Values that it settled on where the configuration says `auto`, and the model's size."""


def read_sessions(path: Path) -> list[Session]:
    """The sessions of a run, oldest first; none where there is no file.

    Raises DataError for a file whose lines do not say which session they are of.
    """
    sessions: dict[int, dict[str, Any]] = {}
    for line in read_metrics(path):
        if "session" not in line:
            raise DataError(
                f"{path} was written by an earlier version of Steel: its lines have no session "
                "number. Remove it; nothing but the report reads it"
            )
        number = int(line["session"])
        if line["event"] == "begin":
            about = {name: line[name] for name in ("host", "commit", "software")}
            names = ("step", "num_processes", "device")
            values: dict[str, Any] = {name: line[name] for name in names}
            values |= {"about": about, "began": line["time"]}
            sessions[number] = {"number": number, **values, "resolved": line.get("resolved", {})}
        elif line["event"] == "energy":
            sessions.get(number, {})["joules"] = line["joules"]
        elif number in sessions:
            sessions[number] |= {"how": line["how"], "last_step": line["step"]}
    return [Session(**session) for session in sessions.values()]


def resolved(path: Path) -> dict[str, Any]:
    """Values that the newest session of a run settled on; empty where none says so."""
    try:
        sessions = read_sessions(path)
    except (DataError, OSError, ValueError, KeyError, TypeError):  # costs no training, no result
        return {}
    return sessions[-1].resolved if sessions else {}


def run_seconds(sessions: Path, metrics: Path) -> float:
    """Seconds that a run was trained, over all its sessions, the killed ones up to their last line
    that still counts. 0 where nothing tells."""
    try:
        starts = [session.began for session in read_sessions(sessions)]
        noted = [line["time"] for line in (*read_metrics(sessions), *read_metrics(metrics))]
    except (DataError, OSError, ValueError, KeyError, TypeError):  # costs no training, no result
        return 0.0
    total = 0.0
    for start, end in zip(starts, [*starts[1:], float("inf")], strict=False):
        total += max((time for time in noted if start <= time < end), default=start) - start
    return total


def run_joules(path: Path) -> float | None:
    """Energy of a run's GPUs over all its sessions: 0 where there is none yet, None where it is not
    known of one of them, or the file cannot be read."""
    try:
        joules = [session.joules for session in read_sessions(path)]
    except (DataError, OSError, ValueError, KeyError, TypeError):  # costs no training, no result
        return None
    known = [value for value in joules if value is not None]
    return sum(known) if len(known) == len(joules) else None


def energy_counts(path: Path) -> dict[str, float]:
    """The count `energy_joules` of a training's stage; empty where energy was not measured."""
    joules = run_joules(path)
    return {"energy_joules": round(joules, 3)} if joules else {}
