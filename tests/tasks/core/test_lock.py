"""The lock of a stage and an owner elsewhere that is stopped, overtaken, and wakes up."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import StageError
from tasks.core import lock as lock_module
from tasks.core.lock import StageLock
from tasks.core.manifest import reclaim

OWNER = """
    import os, signal, socket, sys, time
    from pathlib import Path
    from tasks.core import lock, manifest

    socket.gethostname = lambda: "elsewhere"
    lock.HEARTBEAT_SECONDS = 0.05
    path, point = Path(sys.argv[1]), sys.argv[2]
    partial, folder = path.with_suffix(".partial"), path.with_suffix("")

    def stop(here):
        print(here, flush=True)
        if here == point:
            os.kill(os.getpid(), signal.SIGSTOP)

    with lock.StageLock(path, what="pack") as held:
        points = iter(["before all", "before the manifest", "before the rename"])
        stop("at work")
        if point == "beating":
            time.sleep(600)

        def check():
            held.check()
            stop(next(points))

        manifest.publish(partial, folder, {"by": "the owner"}, check=check)
"""

Start = Callable[[Path, str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an owner that stops at a point."""
    started: list[subprocess.Popen[str]] = []

    def make(path: Path, point: str) -> "subprocess.Popen[str]":
        program = [sys.executable, "-c", textwrap.dedent(OWNER), str(path), point]
        started.append(
            subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield make
    for process in started:
        process.kill()
        process.communicate()


def wait_until_stopped(process: "subprocess.Popen[str]") -> None:
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def overtake(path: Path, monkeypatch: pytest.MonkeyPatch) -> StageLock:
    """Take the lock as soon as its owner counts as gone."""
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 0.3)
    while True:
        try:
            return StageLock(path, what="pack").__enter__()
        except StageError:
            time.sleep(0.05)


@pytest.mark.parametrize("point", ["at work", "before all", "before the manifest"])
def test_an_owner_that_was_overtaken_publishes_nothing(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    path, partial = tmp_path / "key.lock", tmp_path / "key.partial"
    partial.mkdir()
    (partial / "half").write_text("the successor is at it")
    owner = start(path, point)
    wait_until_stopped(owner)
    successor = overtake(path, monkeypatch)
    reclaim(partial, tmp_path / "key")
    os.kill(owner.pid, signal.SIGCONT)
    _, log = owner.communicate(timeout=60)
    assert owner.returncode == 1
    assert f"which process {os.getpid()} on " in log and "ends without publishing" in log
    assert not (tmp_path / "key").exists() and (partial / "half").exists()
    successor.check()
    successor.__exit__(None, None, None)
    assert not path.exists()


def test_a_rename_that_comes_late_publishes_nothing_and_loses_nothing(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, partial, folder = (tmp_path / name for name in ("key.lock", "key.partial", "key"))
    partial.mkdir()
    owner = start(path, "before the rename")
    wait_until_stopped(owner)
    successor = overtake(path, monkeypatch)
    reclaim(partial, folder)
    (partial / "half").write_text("the successor is at it")
    os.kill(owner.pid, signal.SIGCONT)
    owner.communicate(timeout=60)
    assert not (folder / "manifest.json").exists(), "what has no manifest is not finished"
    successor.__exit__(None, None, None)
    with StageLock(path, what="pack"):
        reclaim(partial, folder)
        assert (partial / "half").read_text() == "the successor is at it"
        assert not folder.exists()


def test_an_owner_that_was_overtaken_keeps_no_other_lock_alive(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.lock"
    owner = start(path, "beating")
    assert owner.stdout is not None and owner.stdout.readline() == "at work\n"
    os.kill(owner.pid, signal.SIGSTOP)
    wait_until_stopped(owner)
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 600.0)
    successor = overtake(path, monkeypatch)
    touched = path.stat().st_mtime_ns
    os.kill(owner.pid, signal.SIGCONT)
    time.sleep(0.5)  # ten beats
    assert path.stat().st_mtime_ns == touched
    assert json.loads(path.read_text())["pid"] == os.getpid()
    successor.__exit__(None, None, None)


def test_who_asks_is_told_that_the_lock_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "key.lock"
    with StageLock(path, what="pack") as held:
        held.check()
        path.unlink()
        with pytest.raises(StageError, match=r"lost the lock .*, which nobody has now"):
            held.check()
