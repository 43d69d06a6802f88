"""A stage waits for others: for those that have the devices, and for the one that makes it."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common import devices as machine
from common.config import StageConfig
from common.devices import Ticket, taken
from common.errors import StageError
from tasks.core import lock
from tasks.core.stage import Context, StageRun, stage
from tasks.core.waiting import devices
from tasks.core.waiting.devices import devices_for
from tasks.core.waiting.words import PROGRESS, described, tell_progress
from tests.processes import PATIENCE_SECONDS, alive, wait_until
from tests.tasks.running import stage_run

FLOW = """
    import logging, sys
    from pathlib import Path
    from tasks.core.torchrun import torchrun
    from tests.entry_program import Job
    from tests.tasks.running import stage_run

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    run = stage_run(Path(sys.argv[1]))
    run.stage = "pretrain " + run.folder.name
    steps = int(sys.argv[2])
    torchrun(run, "tests.entry_program", Job(output=str(run.folder), steps=steps),
             num_processes=2, total_steps=steps)
    print("finished", flush=True)
"""
Start = Callable[[Path, int], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a process that trains for a number of steps, as a flow does."""
    monkeypatch.setenv(machine.FOLDER, str(tmp_path / "devices"))
    started: list[subprocess.Popen[str]] = []

    def make(folder: Path, steps: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", textwrap.dedent(FLOW), str(folder), str(steps)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield make
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """The first line with these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended without {words!r}")


@pytest.mark.slow  # four ranks; tests/common/test_devices.py is quick
def test_a_second_training_begins_when_the_ranks_of_a_killed_one_have_saved(
    start: Start, tmp_path: Path
) -> None:
    first = start(tmp_path / "one", 100_000)
    begun = lambda: len(list((tmp_path / "one").glob("rank-*.json"))) == 2  # noqa: E731
    wait_until(begun, "the ranks of the first training work", process=first)
    second = start(tmp_path / "two", 2)
    line = read_until(second, "waits for")
    assert "pretrain two waits for pretrain one, since" in line
    first.send_signal(signal.SIGKILL)
    read_until(second, "goes on after")
    ranks = [json.loads(p.read_text())["pid"] for p in (tmp_path / "one").glob("rank-*.json")]
    assert not any(alive(pid) for pid in ranks), "the first training's ranks are still there"
    assert sorted(p.name for p in (tmp_path / "one").glob("saved-*")) == ["saved-0", "saved-1"]
    read_until(second, "finished")


def test_a_training_gets_gpus_that_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(machine.FOLDER, str(tmp_path / "devices"))
    monkeypatch.setattr(devices, "gpu_names", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    run = stage_run(tmp_path / "run")
    with devices_for(run, 3) as given:
        assert given.env == {}  # all that are visible
    with taken(["GPU-z", "GPU-a"], 2, Ticket(what="another")):  # it sees other ones, and one alike
        for visible, expected in ((None, "1,2"), ("3,5,6", "5,6"), ("GPU-a,GPU-b,GPU-c", None)):
            with ExitStack() as stack:
                changed = stack.enter_context(pytest.MonkeyPatch.context())
                changed.delenv("CUDA_VISIBLE_DEVICES", raising=False)
                if visible:
                    changed.setenv("CUDA_VISIBLE_DEVICES", visible)
                given = stack.enter_context(devices_for(run, 2))
                assert given.env["CUDA_VISIBLE_DEVICES"] == (expected or "GPU-b,GPU-c")
        with pytest.raises(StageError, match=r"wait for another, since .*when_busy: wait"):
            run.when_busy = "refuse"
            with devices_for(run, 3):
                pass
    assert run.waited == 0


@dataclass(frozen=True, kw_only=True)
class NoConfig(StageConfig):
    """A stage's config without fields."""


BEGUN, GO_ON = threading.Event(), threading.Event()
CALLS: list[str] = []


@stage(version=1)
def slow(run: StageRun, config: NoConfig) -> None:
    CALLS.append(run.stage)
    run.progress(30, 100, "step 30/100")
    BEGUN.set()
    assert GO_ON.wait(PATIENCE_SECONDS)
    (run.folder / "model").write_text("model")


def test_the_same_stage_twice_is_made_once(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    context = replace(context, is_task=False)
    for event in (BEGUN, GO_ON):
        event.clear()
    CALLS.clear()
    first = threading.Thread(target=lambda: slow(NoConfig(), context=context))
    first.start()
    assert BEGUN.wait(PATIENCE_SECONDS)
    with pytest.raises(StageError, match="is being made by process"):
        slow(NoConfig(), context=replace(context, when_busy="refuse"))
    with caplog.at_level(logging.INFO, "steel"):
        waits = StageWaitSpy(monkeypatch)
        result = slow(NoConfig(), context=context)
    first.join()
    assert CALLS == ["slow"]
    assert result.reused
    assert (result.folder / "model").read_text() == "model"
    lines = [record.getMessage() for record in caplog.records]
    assert any(f"the same slow, which process {os.getpid()} on" in line for line in lines), lines
    assert any("30 % step 30/100" in line for line in lines)
    assert any("finished meanwhile" in line for line in lines)
    assert waits.states == ["Waiting", "Running"]


class StageWaitSpy:
    """Takes the states that Prefect would be given; lets the first stage go on after the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[str] = []
        monkeypatch.setattr("tasks.core.waiting.words._set_state", self.set_state)

    def set_state(self, name: str, message: str) -> bool:
        self.states.append(name)
        GO_ON.set()
        return True


def test_progress_is_told_with_the_end_when_it_is_known(tmp_path: Path) -> None:
    assert described("sft", "", None, str(tmp_path)) == "sft"
    tell_progress(tmp_path, 7, 10, "step 7/10", 3600.0)
    words = described("sft", "night run", time.time(), str(tmp_path))
    assert words.startswith("sft of the run 'night run', since ")
    assert "70 % step 7/10, until about " in words
    (tmp_path / PROGRESS).write_text('{"half')
    assert "%" not in described("sft", "", None, str(tmp_path))
