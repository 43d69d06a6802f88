"""Leftovers of killed runs: locks and files in the store, processes and runs that nobody owns.

Files are found by tasks/core/results/leftovers.py; processes, and runs of Prefect and MLflow, by
flows/runs/repair.py.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.disk import format_bytes
from common.paths import display
from flows.doctor.finding import Finding, note, ok, problem

if TYPE_CHECKING:
    from flows.runs.repair import Leftover

MOST = 20
"""Files that are named one by one."""


def findings(store: Path) -> Iterator[Finding]:
    """Findings about leftovers."""
    from tasks.core.results.leftovers import leftovers

    command = f"steel doctor --repair --store {display(store)}"
    files = leftovers(store)
    for path, why, size in files[:MOST]:
        text = f"{display(path)}: {why}" + (f", {format_bytes(size)}" if size else "")
        yield problem("leftovers", text, command, repairable=True)
    if len(files) > MOST:
        text = f"and {len(files) - MOST} more files"
        yield problem("leftovers", text, command, repairable=True)
    runs = _runs(store, repair=False)
    for one in runs:
        yield problem("leftovers", f"{one.what} ({one.why})", command, repairable=True)
    if not (files or runs):
        yield ok("leftovers", "no stale lock, half-written file, orphan process or dead run")
    if not store.is_dir():
        yield note("leftovers", f"there is no store at {display(store)} yet")


def mend(store: Path) -> list[str]:
    """Remove leftovers, end orphans, record the end of dead runs. Returns a line for each."""
    from tasks.core.results.leftovers import leftovers, remove_leftover

    done = []
    for path, _, _ in leftovers(store):
        with contextlib.suppress(OSError):
            remove_leftover(path)
            done.append(f"removed {display(path)}")
    return [*done, *(f"{one.what}: {one.action}" for one in _runs(store, repair=True))]


def _runs(store: Path, *, repair: bool) -> "list[Leftover]":
    """Dead runs, and processes that nobody owns; repaired or not."""
    from flows.runs.repair import leftovers

    return leftovers(store, repair=repair)
