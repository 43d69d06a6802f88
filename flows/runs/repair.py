"""Leftovers of killed runs and services: found, and put right.

    Prefect   runs that are Running, Cancelling or Pending though nothing works on them
    MLflow    runs that are RUNNING though their process is gone
    processes children whose run is gone; parts of a service whose first process is gone

Needs neither heartbeats nor an automation, and no server that runs: Prefect's database is opened by
a temporary server when there is something in it. `steel doctor`
shows what is found, `steel doctor --repair` repairs it, and so does `make up`. docs/operations.md
"""

import argparse
import contextlib
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import first_line
from common.paths import ROOT
from common.processes import PARENT, process_start, still_runs
from common.redaction import install
from flows.environment import answers, prefect_api, prepare, request, running_services
from flows.runs.notes import notes_of_this_machine, read_note, remove_note
from flows.runs.watchdog import KILLED, set_state, settle

SILENT_SECONDS = 150.0
"""A run of another machine counts as dead when it gave no heartbeat for so long."""
PENDING_SECONDS = 600.0
"""Longest time that a worker may take to start a run."""
UNFINISHED = ("RUNNING", "CANCELLING", "PENDING")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One thing that a killed run or service has left."""

    what: str
    """Names it, as in `Prefect: the run "pretrain smoke" is Running`."""
    why: str
    """Says from what it is known to be dead."""
    action: str
    """Says what a repair does, or did."""
    repaired: bool = False


def leftovers(store: Path, *, repair: bool = False) -> list[Leftover]:
    """Find what killed runs and services have left; with `repair`, put it right.

    store: whose MLflow database is looked at, unless MLFLOW_TRACKING_URI names another.

    Never raises for a server that does not answer or a database that cannot be read: what could
    not be looked at is one of the results, with `action` saying what to do.
    """
    # Processes first: a run whose children are left is dead.
    found = [*_processes(repair=repair), *_prefect(repair=repair), *_mlflow(store, repair=repair)]
    return found


# ── Prefect ──────────────────────────────────────────────────────────────────────────────────────


def _prefect(*, repair: bool) -> Iterator[Leftover]:
    url = prefect_api()
    if answers(url, 5):
        yield from _flow_runs(url, repair=repair)
        return
    if os.environ.get("PREFECT_API_URL"):
        yield Leftover(
            what="Prefect: its runs were not looked at",
            why="the server of PREFECT_API_URL does not answer",
            action="start it, and run this again",
        )
        return
    names = _unfinished_in_database()
    if names == []:
        return
    if not repair:
        yield Leftover(
            what=f"Prefect: {', '.join(names or ['runs'])} unfinished in its database",
            why="no server runs, so it is not known which of them live",
            action="opens the database with a temporary server, and sets what is dead to Crashed",
        )
        return
    from flows.runs.prefect_run import prefect_server

    with prefect_server() as server:
        yield from _flow_runs(server.url, repair=True)


def _unfinished_in_database() -> list[str] | None:
    """Names of unfinished runs in Prefect's local database; None if it cannot be read."""
    path = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    if not path.is_file():
        return []
    marks = ",".join("?" * len(UNFINISHED))
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            query = f"SELECT name FROM flow_run WHERE state_type IN ({marks})"
            return [name for (name,) in database.execute(query, UNFINISHED)]
    except sqlite3.Error:
        return None


def _flow_runs(url: str, *, repair: bool) -> Iterator[Leftover]:
    """Unfinished runs that nothing works on; with `repair`, their state is corrected."""
    wanted = {"flow_runs": {"state": {"type": {"any_": list(UNFINISHED)}}}, "limit": 200}
    try:
        runs = request(f"{url}/flow_runs/filter", wanted)
    except (OSError, ValueError) as error:
        yield Leftover(
            what="Prefect: its runs were not looked at",
            why=f"{type(error).__name__}: {error}",
            action="see .steel/logs/prefect.log, and run this again",
        )
        return
    if repair:
        _forget_ended(url, {run["id"] for run in runs})
    for run in runs:
        why = _dead_because(url, run)
        if why is None:
            continue
        shown = run["state"]["name"]
        waits = run["state"]["type"] == "PENDING" and run.get("deployment_id")
        done = not repair
        if repair:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if waits:
                    _queue_again(url, run["id"])
                else:
                    note = read_note(run["id"]) or {}
                    state = str(note.get("state", "CRASHED"))
                    settle(url, run["id"], state, str(note.get("message", "")) or KILLED)
                remove_note(run["id"])
                done = True
        yield Leftover(
            what=f'Prefect: the run "{run["name"]}" is {shown}',
            why=why,
            action=(
                "puts it back into the queue" if waits else "sets its last state, and its tasks'"
            )
            if done
            else "the server did not take its last state: see .steel/logs/prefect.log",
            repaired=repair and done,
        )


def _forget_ended(url: str, unfinished: set[str]) -> None:
    """Remove notes of runs whose process is gone and whose end Prefect knows."""
    for flow_run, note in notes_of_this_machine():
        if flow_run in unfinished or still_runs(note):
            continue
        with contextlib.suppress(OSError, ValueError):  # or it is another server's
            request(f"{url}/flow_runs/{flow_run}")
            remove_note(flow_run)


def _dead_because(url: str, run: Mapping[str, Any]) -> str | None:
    """Reason to take an unfinished run for dead; None if something works on it, or may."""
    note = read_note(run["id"])
    if note is not None and note.get("host") == socket.gethostname():
        return None if still_runs(note) else f"its process {note['pid']} on this machine is gone"
    if _has_process(run["id"]):
        return None
    age = _age(run["state"]["timestamp"])
    if run["state"]["type"] == "PENDING":
        worker = running_services().get("worker")
        if worker is not None and not still_runs(worker):
            return "the worker that was to start it is gone"
        return f"no worker has started it in {age / 60:.0f} min" if age > PENDING_SECONDS else None
    if age < SILENT_SECONDS or _heard(url, run["id"]):
        return None
    return (
        f"no process of this machine works on it, and no heartbeat came for {SILENT_SECONDS:.0f} s"
    )


def _has_process(run_id: str) -> bool:
    mark = f"PREFECT__FLOW_RUN_ID={run_id}".encode()
    return any(mark in environment.split(b"\0") for _, environment in _environments())


def _age(timestamp: str) -> float:
    then = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    return (datetime.now(UTC) - then).total_seconds()


def _heard(url: str, run_id: str) -> bool:
    """True if a heartbeat of the run came lately, or that cannot be known."""
    since = datetime.fromtimestamp(time.time() - SILENT_SECONDS, UTC).isoformat()
    wanted = {
        "filter": {
            "occurred": {"since": since},
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run_id}"]},
        },
        "limit": 1,
    }
    try:
        return bool(request(f"{url}/events/filter", wanted)["events"])
    except (OSError, ValueError, KeyError):
        return True


def _queue_again(url: str, run_id: str) -> None:
    set_state(
        f"{url}/flow_runs/{run_id}",
        "SCHEDULED",
        "The worker that was to start it is gone; it waits for the next one.",
        state_details={"scheduled_time": datetime.now(UTC).isoformat()},
    )


# ── MLflow ───────────────────────────────────────────────────────────────────────────────────────


def _mlflow(store: Path, *, repair: bool) -> Iterator[Leftover]:
    if "MLFLOW_TRACKING_URI" not in os.environ and not (store / "mlflow" / "mlflow.db").is_file():
        return  # without importing MLflow, which takes seconds
    from tasks.core.tracking import Client, default_uri, end_killed_runs

    uri = default_uri(store)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return
    try:
        for name in end_killed_runs(Client(uri), dry=not repair):
            yield Leftover(
                what=f'MLflow: the run "{name}" is RUNNING',
                why="its process on this machine is gone",
                action="sets it to KILLED; a resumed stage goes on in it",
                repaired=repair,
            )
    except Exception as error:
        yield Leftover(
            what="MLflow: its runs were not looked at",
            why=f"{type(error).__name__}: {first_line(error)}",
            action="see .steel/logs/mlflow.log, and run this again",
        )


# ── processes ────────────────────────────────────────────────────────────────────────────────────


def _processes(*, repair: bool) -> Iterator[Leftover]:
    for pid, name in _orphans():
        if repair:
            _kill(pid)
        yield Leftover(
            what=f"process {pid} ({name})",
            why="the run or service that started it is gone",
            action="kills it; what it had saved is kept",
            repaired=repair,
        )


def _orphans() -> Iterator[tuple[int, str]]:
    """Processes of this installation whose run or service is gone: process number and command."""
    groups = {
        service["pid"]: name
        for name, service in running_services().items()
        if process_start(service["pid"]) is None
    }
    for pid, environment in _environments():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if (group := os.getpgid(pid)) in groups:
                yield pid, f"of the service {groups[group]}"
                continue
            if "flows.runs.watchdog" in words or Path(f"/proc/{pid}/cwd").resolve() != ROOT:
                continue  # the watchdog of a killed run ends by itself
            for entry in environment.split(b"\0"):
                name, _, parent = entry.partition(b"=")
                if name == PARENT.encode() and process_start(int(parent)) is None:
                    yield pid, " ".join(words[1:4]).strip()


def _environments() -> Iterator[tuple[int, bytes]]:
    """Process number and environment of the user's processes (Linux; none elsewhere)."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if path.parent.stat().st_uid == os.getuid() and (content := path.read_bytes()):
                yield int(path.parent.name), content


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> int:
    """`python -m flows.runs.repair [--store DIR] [--look]`."""
    prepare()
    install()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=ROOT / "store")
    parser.add_argument("--look", action="store_true", help="change nothing")
    given = parser.parse_args()
    for found in leftovers(given.store.resolve(), repair=not given.look):
        print(f"{found.what}: {found.why}. Repair: {found.action}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
