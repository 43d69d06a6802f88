"""A rank that hangs or dies ends all others, with a reason."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.train.checkpoint.folders import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, RANKS_FOLDER
from tests.model.train import ranks
from tests.model.train.ranks import Fault
from tests.processes import PATIENCE_SECONDS, processes_of, wait_until

EXIT_HANGING = 3
QUICKLY = {"step_timeout_minutes": 0.1, "first_step_timeout_minutes": 4.0}


@pytest.mark.usefixtures("fork_server")
def test_a_stopped_rank_ends_the_others(packed: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(health=QUICKLY))
    stop = Fault(step=6, number=signal.SIGSTOP, rank=1)
    assert ranks.run_ranks(job, 2, stop) == [EXIT_HANGING, -signal.SIGKILL]
    log = (tmp_path / "rank-0.log").read_text()
    hanging = r"no progress for (\d+) s \(allowed: 6\) in phase 'forward_backward', after step 6"
    found = re.search(f"rank 0 made {hanging}", log)
    assert found and int(found[1]) >= 6, log  # by a thread that a loaded machine may let wait
    assert "Rank 1 " in log and "is stopped (SIGSTOP); it was in phase " in log
    assert "Current thread" in log and "trainer.py" in log, "stack traces"
    # And the run goes on from its checkpoint, at whatever pace.
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    assert ranks.run_ranks(job, 2) == [0, 0]
    assert not list((tmp_path / RANKS_FOLDER).iterdir())


@pytest.mark.usefixtures("fork_server")
def test_a_dead_rank_is_named(packed: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    kill = Fault(step=6, number=signal.SIGKILL, rank=1)
    assert ranks.run_ranks(job, 2, kill) == [EXIT_HANGING, -signal.SIGKILL]
    [sentence] = [
        line
        for line in (tmp_path / "rank-0.log").read_text().splitlines()
        if "lost another rank" in line
    ]
    assert "rank 0 lost another rank in phase 'forward_backward', after step 6. Rank 1 " in sentence
    assert " is dead; it was in phase " in sentence
    assert "Traceback" not in (tmp_path / "rank-0.log").read_text()


HELD = """
import ctypes, faulthandler, sys, threading
from pathlib import Path
from model.train.callbacks.watchdog import Watchdog

armed, arm = threading.Event(), faulthandler.dump_traceback_later
faulthandler.dump_traceback_later = lambda *given, **more: (arm(*given, **more), armed.set())
watchdog = Watchdog(Path(sys.argv[1]), 0, first_timeout=3, timeout=1, margin=1).start()
armed.wait()
watchdog.beat("step", 7)
ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock: no Python thread runs
"""


def test_a_process_whose_python_hangs_ends_too(tmp_path: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path)],
        cwd=root,
        timeout=PATIENCE_SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Timeout" in done.stderr and 'File "<string>", line' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_torchrun_ends_with_all_its_ranks(
    packed: Path, tmp_path: Path, root: Path, number: signal.Signals
) -> None:
    values = ranks.settings(steps=60, weights={"alpha": 4.0, "beta": 4.0}, health=QUICKLY)
    job = ranks.write_job(packed, tmp_path, values)
    with (tmp_path / "launch.log").open("wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "model.entry.launch", "2", "model.entry.pretrain", str(job)],
            cwd=root,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
    try:
        wait_until(
            lambda: complete_checkpoints(tmp_path / CHECKPOINTS_FOLDER),
            "a checkpoint is there",
            process=launcher,
            log=tmp_path / "launch.log",
        )
        victims = [pid for pid in processes_of(job) if pid != launcher.pid]
        os.kill(max(victims), number)
        assert launcher.wait(PATIENCE_SECONDS) != 0
    finally:
        launcher.kill()
    assert not processes_of(job)
    log_text = (tmp_path / "launch.log").read_text()
    assert "made no progress" in log_text or "lost another rank" in log_text
