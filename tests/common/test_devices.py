"""Devices are held by one at a time: real processes, killed and stopped."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import devices
from common.devices import Others, Ticket, taken, tickets
from common.errors import StageError

PROGRAM = """
    import subprocess, sys, time
    from common.devices import Ticket, taken
    what, number, names, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4]
    told = []
    def waiting(others):
        if not told:
            told.append(print("waits for", *[t.what for t in (*others.holders, *others.ahead)],
                              flush=True))
    with taken(names, number, Ticket(what=what, run="a run"), waiting=waiting) as claim:
        print("has", *claim.names, flush=True)
        if mode == "child":  # which holds them, too, and lives on for a moment
            child = subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()"],
                stdin=subprocess.PIPE, pass_fds=claim.files)
            print(child.pid, flush=True)
        sys.stdin.readline()
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Start a process that takes devices and gives them back when its input ends."""
    monkeypatch.setenv(devices.FOLDER, str(tmp_path / "devices"))
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.05)
    started: list[subprocess.Popen[str]] = []

    def make(what: str, number: int, *names: str, mode: str = "alone") -> "subprocess.Popen[str]":
        program = "import common.devices as d; d.POLL_SECONDS = 0.05\n" + textwrap.dedent(PROGRAM)
        command = [sys.executable, "-c", program, what, str(number), ",".join(names), mode]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield make
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_each_device_is_given_out_once_and_a_killed_holder_gives_it_back(start: Start) -> None:
    first = start("first", 2, "a", "b", "c")
    assert said(first) == "has a b"
    second = start("second", 1, "a", "b", "c")
    assert said(second) == "has c"
    third = start("third", 2, "a", "b", "c")
    assert said(third) == "waits for first second"
    assert {(t.what, t.holds, t.pid) for t in tickets()} == {
        ("first", True, first.pid),
        ("second", True, second.pid),
        ("third", False, third.pid),
    }
    end(second)  # one is free, and two are needed
    fourth = start("fourth", 1, "c")  # nobody overtakes one who waits for it
    assert said(fourth) == "waits for third"
    first.send_signal(signal.SIGKILL)
    assert said(third) == "has a b"
    assert said(fourth) == "has c"
    third.send_signal(signal.SIGKILL)
    fourth.send_signal(signal.SIGKILL)
    third.wait()
    fourth.wait()
    assert tickets() == []
    assert [path.name for path in devices.folder().iterdir()] == ["door"]


def test_children_of_a_killed_holder_keep_its_devices_until_they_end(start: Start) -> None:
    holder = start("training", 1, "cpu", mode="child")
    assert said(holder) == "has cpu"
    child = int(said(holder))
    os.kill(child, signal.SIGSTOP)  # ranks that are slow to save
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    other = start("other", 1, "cpu")
    assert said(other) == "waits for training"
    os.kill(child, signal.SIGKILL)
    assert said(other) == "has cpu"


def test_one_who_waits_and_is_stopped_is_overtaken(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = start("holder", 1, "a")
    assert said(holder) == "has a"
    stopped = start("stopped", 1, "a")
    assert said(stopped) == "waits for holder"
    os.kill(stopped.pid, signal.SIGSTOP)
    monkeypatch.setattr(devices, "SILENT_SECONDS", 0.2)
    seen: list[Others] = []

    def waiting(others: Others) -> None:
        seen.append(others)
        if not others.ahead and holder.poll() is None:
            end(holder)

    with taken(["a"], 1, Ticket(what="here"), waiting=waiting) as claim:
        assert claim is not None
        assert claim.names == ("a",)
        os.kill(stopped.pid, signal.SIGCONT)
        time.sleep(0.2)
        assert [t.what for t in tickets() if t.holds] == ["here"]
    assert said(stopped) == "has a"


def test_refusing_sharing_and_what_a_parent_holds(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = start("holder", 1, "a")
    assert said(holder) == "has a"
    with (
        pytest.raises(StageError, match="busy"),
        taken(["a"], 1, Ticket(what="x"), when_busy="refuse"),
    ):
        pass
    with taken(["a"], 1, Ticket(what="x"), when_busy="share") as claim:
        assert claim is None
    monkeypatch.setenv(devices.GIVEN, "a,b")
    with taken(["a"], 1, Ticket(what="x")) as claim:
        assert claim is None
    assert [ticket.what for ticket in tickets()] == ["holder"]


def test_more_ranks_than_devices_take_all_of_them(start: Start) -> None:
    with taken(["a", "b"], 8, Ticket(what="x")) as claim:
        assert claim is not None
        assert claim.names == ("a", "b")


def test_a_ticket_that_is_none_of_ours_is_left_alone(start: Start) -> None:
    devices.folder().mkdir()
    foreign = devices.folder() / "000000000001-foreign.json"
    foreign.write_text("not JSON")
    import fcntl

    with foreign.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with taken(["a"], 1, Ticket(what="x")) as claim:
            assert claim is not None
        assert foreign.exists()
