"""The worker of a container ends after its runs have saved."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.processes import process_start
from flows.runs import notes as notes_module
from flows.services import worker
from flows.services.worker import Worker
from tests.processes import PATIENCE_SECONDS

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setattr(notes_module, "NOTES", folder)
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(
        worker, "python", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"]
    )
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)  # pytest's own stay
    return folder


KILLS_ITS_RUNS = """
import os, signal, sys, time
def end(*_):
    os.kill(int(sys.argv[1]), signal.SIGKILL)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
time.sleep(0.1)
while True:
    open(sys.argv[2], "a").write("x")
    time.sleep(0.01)
"""
"""As Prefect's worker does when it is asked to end; until then it begins runs, which are `x`."""


def note(folder: Path, name: str, pid: int, host: str, started: str | None) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"pid": pid, "host": host, "started": started}))


def test_runs_of_this_machine_save_before_the_worker_is_gone(notes: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    run = subprocess.Popen(
        [sys.executable, "-c", SAVES, str(saved)], stdout=subprocess.PIPE, start_new_session=True
    )
    other = subprocess.Popen(["sleep", "600"])
    try:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        here = socket.gethostname()
        note(notes, "mine", run.pid, here, process_start(run.pid))
        note(notes, "elsewhere", other.pid, "another-host", process_start(other.pid))
        note(notes, "number-given-again", other.pid, here, "1")
        (notes / "half.json").write_text("{")
        assert worker.own_runs() == [run.pid]
        asked = Worker([])
        asked.stopping = True
        assert asked.run() == 0
        assert saved.read_text() == "saved"
        assert run.wait(PATIENCE_SECONDS) == 143
        assert other.poll() is None, "a process that is no run of this machine is left alone"
    finally:
        for process in (run, other):
            process.kill()
            process.wait()
        assert run.stdout is not None
        run.stdout.close()


def test_the_worker_is_halted_until_its_runs_have_saved(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's own kills them when it ends, and would begin others as long as it lives."""
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    run = subprocess.Popen([sys.executable, "-c", SAVES, str(saved)], stdout=subprocess.PIPE)
    try:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        note(notes, "mine", run.pid, socket.gethostname(), process_start(run.pid))
        monkeypatch.setattr(
            worker,
            "python",
            lambda *_: [sys.executable, "-c", KILLS_ITS_RUNS, str(run.pid), str(begun)],
        )
        asked = Worker([])
        found: list[int] = []

        def looking() -> list[int]:
            """As `own_runs`; counts what the worker begins while it looks."""
            found.append(begun.stat().st_size)
            return own_runs()

        def slept(seconds: float) -> None:
            time.sleep(seconds)
            asked.stopping = asked.stopping or (begun.exists() and begun.stat().st_size > 3)

        own_runs = worker.own_runs
        monkeypatch.setattr(worker, "own_runs", looking)
        monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=slept, monotonic=time.monotonic))
        assert asked.run() == 0
        assert run.wait(10) == 143 and saved.read_text() == "saved"
        assert len(found) > 2 and found[1] == found[-1], "it began runs while it was to end"
    finally:
        run.kill()
        run.wait()
        assert run.stdout is not None
        run.stdout.close()


def test_a_worker_that_ends_by_itself_is_an_error(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "python", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    assert Worker([]).run() == 7
