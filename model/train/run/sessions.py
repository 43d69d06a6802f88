"""Sessions of a run, in sessions.jsonl: two lines for each time that processes took it up.

    {"time": …, "event": "begin", "step": 120, "batch": 120, "num_processes": 2,
     "device": "NVIDIA H200", "host": "node-3", "commit": "1f0c…", "software": {"torch": …}}
    {"time": …, "event": "end", "step": 250, "how": "stopped"}

    how    done · stopped (asked to, with a complete checkpoint) · failed (and with what)
           a session without an end was killed

The file is only ever added to. It also has steps that a kill threw away; metrics.jsonl has the
steps that the weights come from.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.train.run.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Session:
    """One time that processes took up a run."""

    step: int
    """Completed steps when it began: 0, or those of the checkpoint it resumed from."""
    num_processes: int
    """Ranks."""
    device: str
    """Name of rank 0's device."""
    began: float
    """Time of its beginning, seconds since 1970."""
    how: str = "killed"
    """Its end as above; "killed" where no process was left to note it, or while it still runs."""
    last_step: int | None = None
    """Completed steps when it ended; None where no process was left to note them."""
    about: dict[str, Any] = field(default_factory=dict)
    """Host, commit, versions."""


def read_sessions(path: Path) -> list[Session]:
    """The sessions of a run, oldest first; none where there is no file."""
    sessions: list[dict[str, Any]] = []
    for line in read_metrics(path):
        if line["event"] == "begin":
            about = {name: line[name] for name in ("host", "commit", "software")}
            names = ("step", "num_processes", "device")
            sessions.append(
                {**{name: line[name] for name in names}, "about": about, "began": line["time"]}
            )
        elif sessions:
            sessions[-1] |= {"how": line["how"], "last_step": line["step"]}
    return [Session(**session) for session in sessions]
