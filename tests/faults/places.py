"""Faults at named places of a program, for tests that kill it, fill its disk or let it wait.

Fault("group", "os.rename", r"/sft/.*/model$")  ──with_fault(folder, …)──▶ environment
                                                 tests/faults/hook strikes in the program
"""

import json
from dataclasses import dataclass
from pathlib import Path

HOOK = Path(__file__).with_name("hook")


@dataclass(frozen=True)
class Fault:
    """A fault of a run, and its place."""

    do: str
    """Victim of a kill, a signal, `fill` or `wait` (tests/faults/hook/sitecustomize.py)."""
    event: str
    """`open`, `os.listdir`, `os.rename` or `subprocess.Popen`."""
    pattern: str
    """Regular expression for the name of the file, or the command."""
    count: int = 1
    """Strike when it comes for the nth time."""


def place(store: Path) -> Path:
    """Folder beside a store for what a fault keeps."""
    folder = store.with_name(f"{store.name}-fault")
    folder.mkdir(exist_ok=True)
    return folder


def with_fault(store: Path, fault: Fault) -> dict[str, str]:
    """Environment of a run that a fault strikes. Forgets a former one."""
    folder = place(store)
    for name in ("events", "done", "steel", "go"):
        (folder / name).unlink(missing_ok=True)
    spec = {**vars(fault), "folder": str(folder), "ballast": str(store / "ballast")}
    return {"PYTHONPATH": str(HOOK), "STEEL_TEST_FAULT": json.dumps(spec)}


def struck(store: Path) -> bool:
    """True if the fault has happened."""
    return (place(store) / "done").exists()


def go_on(store: Path) -> None:
    """End the wait of whoever waits there."""
    (place(store) / "go").touch()
