"""A rank that dies ends the others where collectives do not fail but hang, as NCCL's do."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import Work

from model.data import StepLoader
from model.train.callbacks.watchdog import EXIT_HANGING
from model.train.distributed.context import distributed_context
from model.train.distributed.lifeline import lifeline
from model.train.distributed.signals import Stopped
from tests.model.train import ranks
from tests.model.train.ranks import Fault
from tests.processes import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("fork_server")


def hang() -> None:
    """Wait as a thread does for a device whose kernel waits for another one: without the
    interpreter's lock, deaf to signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.CDLL(None).sleep(600)


class HangingWork(Work):  # type: ignore[misc]
    """Work of a collective that hangs where gloo's fails."""

    def __init__(self, work: Any) -> None:
        super().__init__()
        self.work = work

    def wait(self, *arguments: Any) -> bool:
        try:
            return bool(self.work.wait(*arguments))
        except RuntimeError:
            hang()
            raise


def hang_like_nccl() -> None:
    """From now on, in this process, the collectives of training hang when a partner is gone."""

    def hanging(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                work = function(*arguments, **options)
            except RuntimeError:
                hang()
                raise
            return work if work is None else HangingWork(work)

        return call

    for name in dir(dist):
        if name.startswith(("all_reduce", "all_gather_", "reduce_scatter_")) and (
            "object" not in name
        ):
            setattr(dist, name, hanging(getattr(dist, name)))


def train(job: Path, fault: Fault | None, one_host: bool = True, fails: int | None = None) -> None:
    """Train in a rank; fails: the rank that raises an error in its third step."""
    rank = int(os.environ["RANK"])
    hang_like_nccl()
    if not one_host:
        socket.gethostname = lambda: f"node-{rank}"
    if fails == rank:
        original = StepLoader.step

        def step(self: StepLoader, number: int) -> Any:
            if number == 2:
                raise ZeroDivisionError("a defect of this rank")
            return original(self, number)

        StepLoader.step = step  # type: ignore[method-assign]
    ranks._train(job, fault, {}, {})


def sentence(output: Path, rank: int) -> str:
    """The one in which a rank says why it ends."""
    log = (output / f"rank-{rank}.log").read_text()
    [found] = [line for line in log.splitlines() if "lost another rank" in line]
    return found


@pytest.mark.parametrize("one_host", [True, False])
def test_a_dead_rank_ends_one_that_hangs(packed: Path, tmp_path: Path, one_host: bool) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    kill = Fault(step=6, rank=1)
    codes = ranks.run_function(train, 2, job, kill, one_host)
    assert codes == [EXIT_HANGING, -signal.SIGKILL], (tmp_path / "rank-0.log").read_text()
    state = "is dead" if one_host else "is gone"  # of another machine processes are not seen
    assert "in phase 'forward_backward', after step 6. Rank 1 " in sentence(tmp_path, 0)
    assert f" {state}; it was in phase " in sentence(tmp_path, 0)
    # And the run goes on from its checkpoint.
    assert ranks.run_ranks(job, 2) == [0, 0]


def test_all_ranks_end_and_name_the_one_that_died(packed: Path, tmp_path: Path) -> None:
    """Ranks 0 and 2 are its neighbours; rank 1 hears of it."""
    job = ranks.write_job(packed, tmp_path, ranks.settings(parallel={"shard": 2}))
    codes = ranks.run_function(train, 4, job, Fault(step=5, rank=3), False)
    assert codes == [EXIT_HANGING] * 3 + [-signal.SIGKILL]
    for rank in range(3):
        assert "Rank 3 (host node-3, process" in sentence(tmp_path, rank), rank
        assert "is gone" in sentence(tmp_path, rank)


def test_sigterm_of_torchrun_changes_nothing(packed: Path, tmp_path: Path) -> None:
    """torchrun sends it to the others when one has died; the thread that hangs does not hear it."""
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    first, second = ranks.start_ranks(train, 2, job, Fault(step=6, rank=1))
    second.join(PATIENCE_SECONDS)
    assert second.exitcode == -signal.SIGKILL and first.pid
    os.kill(first.pid, signal.SIGTERM)
    first.join(PATIENCE_SECONDS)
    assert first.exitcode == EXIT_HANGING
    assert "Rank 1 " in sentence(tmp_path, 0)


def test_a_rank_with_an_error_of_its_own_ends_the_others(packed: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    assert ranks.run_function(train, 2, job, None, True, 1) == [EXIT_HANGING, 1]
    assert "ZeroDivisionError" in (tmp_path / "rank-1.log").read_text()
    assert "Rank 1 has ended; its own last message says why." in sentence(tmp_path, 0)


def test_being_stopped_is_no_death(packed: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    stop = Fault(step=6, number=signal.SIGTERM, rank=1)
    assert ranks.run_function(train, 2, job, stop) == [143, 143]
    for rank in range(2):
        assert "lost another rank" not in (tmp_path / f"rank-{rank}.log").read_text()


def leave_one_after_the_other(folder: Path, stopped: bool) -> None:
    """Ranks leave a third of a second apart; each writes down whom it lost meanwhile."""
    lost: list[int] = []

    def on_lost(rank: int, left: threading.Event) -> None:
        lost.append(rank)

    with distributed_context() as here:
        try:
            with lifeline(here, on_lost):
                time.sleep(0.3 * here.rank)
                if stopped:
                    raise Stopped(step=1)
        except Stopped:
            pass
        here.barrier()
    (folder / str(here.rank)).write_text(repr(lost))
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.parametrize("stopped", [False, True])
def test_leaving_in_order_is_no_death(tmp_path: Path, stopped: bool) -> None:
    assert ranks.run_function(leave_one_after_the_other, 3, tmp_path, stopped) == [0] * 3
    assert {path.read_text() for path in tmp_path.iterdir()} == {"[]"}
    assert len(list(tmp_path.iterdir())) == 3


ENTRY = """
import sys, time
from model.entry.launch import run_and_exit
from model.train.distributed.context import distributed_context
from model.train.distributed.lifeline import lifeline

def main(argv):
    with distributed_context() as here, lifeline(here, lambda rank, left: left.wait(60)):
        if here.rank == 1:
            raise ZeroDivisionError("a defect of this rank")
        time.sleep(5)
    return 0

run_and_exit(main)
"""


@pytest.mark.slow
def test_an_error_keeps_its_exit_code_while_the_line_is_held(root: Path) -> None:
    """Python's own way out would abort the process, with threads inside torch's C++."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ENTRY],
            cwd=root,
            env={**os.environ, **place, "RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    said = [process.communicate(timeout=280)[1] for process in started]
    assert [process.returncode for process in started] == [0, 1, 0], said
    assert "ZeroDivisionError: a defect of this rank" in said[1]
