"""The worker of a container ends after its runs have saved."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.processes import process_start
from flows.runs import notes as notes_module
from flows.services import local, worker
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


@contextlib.contextmanager
def saving_run(saved: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A run that is ready to save to this file when it is asked to stop."""
    command = [sys.executable, "-c", SAVES, str(saved)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as run:
        try:
            assert run.stdout is not None and run.stdout.readline() == b"ready\n"
            yield run
        finally:
            run.kill()


def note(folder: Path, name: str, pid: int, host: str, started: str | None) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"pid": pid, "host": host, "started": started}))


def test_runs_of_this_machine_save_before_the_worker_is_gone(notes: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    with saving_run(saved) as run, subprocess.Popen(["sleep", "600"]) as other:
        try:
            here = socket.gethostname()
            note(notes, "mine", run.pid, here, process_start(run.pid))
            note(notes, "elsewhere", other.pid, "another-host", process_start(other.pid))
            note(notes, "number-given-again", other.pid, here, "1")
            (notes / "half.json").write_text("{")
            assert worker.own_runs() == [run.pid]
            assert worker.own_runs(os.getpid()) == [run.pid], "this process started it"
            assert worker.own_runs(other.pid) == []
            asked = Worker([])
            asked.stopping = True
            assert asked.run() == 0
            assert saved.read_text() == "saved"
            assert run.wait(PATIENCE_SECONDS) == 143
            assert other.poll() is None, "a process that is no run of this machine is left alone"
        finally:
            other.kill()


def test_the_worker_is_halted_until_its_runs_have_saved(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's own kills them when it ends, and would begin others as long as it lives."""
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    with saving_run(saved) as run:
        note(notes, "mine", run.pid, socket.gethostname(), process_start(run.pid))
        monkeypatch.setattr(
            worker,
            "python",
            lambda *_: [sys.executable, "-c", KILLS_ITS_RUNS, str(run.pid), str(begun)],
        )
        asked = Worker([])
        found: list[int] = []

        def looking(of: int | None = None) -> list[int]:
            """As `own_runs`; counts what the worker begins while it looks."""
            found.append(begun.stat().st_size)
            return own_runs(of)

        def slept(seconds: float) -> None:
            time.sleep(seconds)
            asked.stopping = asked.stopping or (begun.exists() and begun.stat().st_size > 3)

        own_runs = worker.own_runs
        monkeypatch.setattr(worker, "own_runs", looking)
        monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=slept, monotonic=time.monotonic))
        assert asked.run() == 0
        assert run.wait(10) == 143 and saved.read_text() == "saved"
        assert len(found) > 2 and found[1] == found[-1], "it began runs while it was to end"


WORKER = """
import signal, subprocess, sys, time
run = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
def end(*_):
    run.kill()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print(run.pid, flush=True)
time.sleep(60)
"""
"""Starts a run, and kills it when it is asked to end."""


def test_make_down_lets_the_workers_runs_save_and_no_others(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, SAVES, str(saved)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    terminal = subprocess.Popen(["sleep", "60"])
    try:
        assert process.stdout is not None
        lines = {process.stdout.readline().strip() for _ in range(2)}
        [run] = [int(line) for line in lines - {b"ready"}]
        here = socket.gethostname()
        note(notes, "workers", run, here, process_start(run))
        note(notes, "of-a-terminal", terminal.pid, here, process_start(terminal.pid))
        service = {"pid": process.pid, "started": process_start(process.pid)}
        monkeypatch.setattr(local, "running_services", lambda: {"worker": service})
        monkeypatch.setattr(local, "SERVICES", tmp_path / "services.json")
        assert local.down()
        assert saved.read_text() == "saved"
        assert process.wait(10) == 0
        assert terminal.poll() is None
    finally:
        for one in (process, terminal):
            one.kill()
            one.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_worker_that_ends_by_itself_is_an_error(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "python", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    assert Worker([]).run() == 7
