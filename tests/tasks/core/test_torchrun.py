"""Entries are started, followed and stopped well; nothing outlives its stage.

The entry here is `tests.entry_program`: real ranks that join a process group, write metrics, save
on SIGTERM, and can be told to fail.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from common.config import StageConfig, from_plain
from common.errors import ConfigError, StageError
from model.entry.join import LAUNCH_FILE
from model.entry.launch import Nodes
from model.train.config import PretrainJob, PretrainSettings
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import JsonlSink
from tasks.core import torchrun as _torchrun
from tasks.core.stage import Context, StageRun, stage
from tasks.core.torchrun import torchrun
from tests.entry_program import Job
from tests.processes import PATIENCE_SECONDS, alive, wait_until


@dataclass(frozen=True, kw_only=True)
class NoConfig(StageConfig):
    """A stage's config without fields."""


@pytest.fixture
def run(context: Context, tmp_path: Path) -> StageRun:
    """A stage run as @stage would make it."""
    taken: list[StageRun] = []

    @stage(version=1)
    def probe(run: StageRun, config: NoConfig) -> None:
        taken.append(run)

    probe(NoConfig(), context=context)
    folder = tmp_path / "work"
    folder.mkdir()
    taken[0].folder = folder
    return taken[0]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_ranks_get_the_config_and_their_world(run: StageRun, num_processes: int) -> None:
    job = Job(output=str(run.folder), steps=2, say="锰钢")
    torchrun(run, "tests.entry_program", job, num_processes=num_processes, total_steps=2)
    worlds = [json.loads((run.folder / f"rank-{r}.json").read_text()) for r in range(num_processes)]
    assert [w["rank"] for w in worlds] == list(range(num_processes))
    assert {w["world_size"] for w in worlds} == {num_processes}
    assert {w["say"] for w in worlds} == {"锰钢"}
    assert {w["sum"] for w in worlds} == {sum(range(num_processes))}


def test_progress_says_of_which_step_a_loss_is(tmp_path: Path) -> None:
    told: list[tuple[int, int, str, float | None]] = []
    run = cast("StageRun", SimpleNamespace(progress=lambda *what: told.append(what)))
    metrics = tmp_path / METRICS_FILE
    sink = JsonlSink(metrics)
    sink.log(11, {"train/loss": 9.0, "perf/seconds_left": 1.0})  # of an earlier session
    follower = _torchrun._StepProgress(run, metrics, lambda: 13)
    follower.poll()
    for step, values in (
        (10, {"train/loss": 2.5, "perf/tokens_per_second": 1234.5, "perf/seconds_left": 6.0}),
        (12, {"validation/loss": 3.0}),
        (13, {"train/loss": 2.25, "perf/mfu": 0.315}),
        (13, {"perf/checkpoint_stall_seconds": 0.1}),
    ):
        sink.log(step, values)
        follower.poll()
        follower.poll()  # nothing new, nothing said
    assert told == [
        (10, 13, "step 10/13, loss 2.500, 1,234 tokens/s", 6.0),
        (12, 13, "step 12/13, loss 2.500 in step 10, 1,234 tokens/s", None),
        (13, 13, "step 13/13, loss 2.250, MFU 31.5 %", None),
        (13, 13, "step 13/13, loss 2.250, MFU 31.5 %", None),
    ]


def test_failure_carries_the_end_of_the_log(run: StageRun) -> None:
    job = Job(output=str(run.folder), steps=1, fail="the furnace is cold")
    with pytest.raises(StageError, match="the furnace is cold"):
        torchrun(run, "tests.entry_program", job, num_processes=1, total_steps=1)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_refusal_arrives_as_it_was_raised(run: StageRun, num_processes: int) -> None:
    job = Job(output=str(run.folder), steps=1, refuse="steps = 1; give 2 or more")
    with pytest.raises(ConfigError) as raised:
        torchrun(run, "tests.entry_program", job, num_processes=num_processes)
    assert str(raised.value) == "steps = 1; give 2 or more"


def test_cancelled_stage_lets_ranks_save_and_leaves_none(
    run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()

    def interrupt(self: object) -> None:
        if len(list(run.folder.glob("rank-*.json"))) == 2:
            raise KeyboardInterrupt
        assert time.monotonic() - started < PATIENCE_SECONDS

    monkeypatch.setattr(_torchrun._StepProgress, "poll", interrupt)
    job = Job(output=str(run.folder), steps=10_000)
    with pytest.raises(KeyboardInterrupt):
        torchrun(run, "tests.entry_program", job, num_processes=2, total_steps=10_000)
    pids = [json.loads(p.read_text())["pid"] for p in run.folder.glob("rank-*.json")]
    assert sorted(p.name for p in run.folder.glob("saved-*")) == ["saved-0", "saved-1"]
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(("num_processes", "who"), [(2, "rank 1"), (1, "the process that started")])
def test_a_rank_that_is_killed_is_named_and_the_others_end(
    run: StageRun, monkeypatch: pytest.MonkeyPatch, num_processes: int, who: str
) -> None:
    killed: list[int] = []

    def kill(self: object) -> None:
        last = run.folder / f"rank-{num_processes - 1}.json"
        if not killed and last.is_file():
            killed.append(json.loads(last.read_text())["pid"])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(_torchrun._StepProgress, "poll", kill)
    job = Job(output=str(run.folder), steps=10_000)
    with pytest.raises(StageError) as caught:
        torchrun(run, "tests.entry_program", job, num_processes=num_processes, total_steps=10_000)
    message = str(caught.value)
    assert message.startswith(f"{run.stage}: {who}")
    assert "ended by SIGKILL, most likely because memory ran out" in message
    assert "Start it again, and it goes on" in message and len(message.splitlines()) == 1
    pids = [json.loads(p.read_text())["pid"] for p in run.folder.glob("rank-*.json")]
    assert not any(alive(pid) for pid in pids)


def test_ranks_save_and_end_when_the_orchestrator_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"output": str(tmp_path), "steps": 10_000}))
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-m', "
        f"'model.entry.launch', '2', 'tests.entry_program', {str(config)!r}], "
        "start_new_session=True); time.sleep(600)"
    )
    orchestrator = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    begun = lambda: len(list(tmp_path.glob("rank-*.json"))) == 2  # noqa: E731
    wait_until(begun, "both ranks work", process=orchestrator)
    pids = [json.loads(p.read_text())["pid"] for p in tmp_path.glob("rank-*.json")]
    orchestrator.send_signal(signal.SIGKILL)
    orchestrator.wait()
    wait_until(lambda: not any(map(alive, pids)), "the ranks are gone")
    assert sorted(p.name for p in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


@pytest.mark.slow
def test_a_stage_on_two_machines(run: StageRun, context: Context, tmp_path: Path) -> None:
    """The other machine is a process that joins at the store; both are on loopback here."""
    from tests.model.train import ranks

    store = run.folder.parents[1]
    packed = ranks.write_packed(tmp_path / "packed")
    job = PretrainJob(
        settings=from_plain(PretrainSettings, ranks.settings(steps=3), "test"),
        packed=str(packed),
        output=str(run.folder),
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"GLOO_SOCKET_IFNAME": "lo", "PET_LOCAL_ADDR": "127.0.0.1"}
    with (tmp_path / "join.log").open("wb") as log:
        other = subprocess.Popen(
            [sys.executable, "-m", "model.entry.join", str(store)],
            env={**os.environ, **env},
            stdout=log,
            stderr=log,
        )
    try:
        torchrun(
            run,
            "model.entry.pretrain",
            job,
            num_processes=1,
            total_steps=3,
            env=env,
            nodes=Nodes(num=2, rendezvous=f"127.0.0.1:{port}"),
        )
    finally:
        other.terminate()
        assert other.wait(60) == 0
    assert "2 process(es)" in (run.folder / "pretrain.log").read_text()
    assert "2 process(es)" not in (tmp_path / "join.log").read_text(), "rank 0 alone tells"
    assert (run.folder / MODEL_FOLDER / "model.safetensors").is_file()
    assert not (store / LAUNCH_FILE).exists()
