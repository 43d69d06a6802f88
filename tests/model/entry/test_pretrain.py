"""The program under the real torchrun: it saves when its launcher is killed, and goes on later."""

import os
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

from model.train.checkpoint.folders import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, MODEL_FOLDER
from tests.faults.places import Fault, go_on, struck, with_fault
from tests.model.train import ranks
from tests.processes import PATIENCE_SECONDS, processes_of, wait_until


def launch(job: Path, root: Path, **env: str) -> "subprocess.Popen[bytes]":
    with (job.parent / "launch.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "model.entry.launch", "2", "model.entry.pretrain", str(job)],
            cwd=root,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **env},
        )


def test_a_killed_launcher_leaves_a_complete_checkpoint_and_no_ranks(
    packed: Path, tmp_path: Path, root: Path
) -> None:
    weights = {"alpha": 4.0, "beta": 4.0}
    job = ranks.write_job(
        packed, tmp_path, ranks.settings(steps=60, weights=weights, checkpoints={"interval": 1000})
    )
    log = tmp_path / "launch.log"
    # Rank 0 waits when it looks for requests for the eighth time, so that the training has not
    # ended before its launcher is killed.
    held = tmp_path / "held"
    first = launch(job, root, **with_fault(held, Fault("wait", "os.listdir", r"/requests$", 8)))
    try:
        wait_until(lambda: struck(held), "rank 0 trains", process=first, log=log)
        assert len(ranks.read_run(tmp_path)) >= 3
        assert len(processes_of(job)) == 3, "launcher and two ranks"
    finally:
        first.kill()
        first.wait()
        go_on(held)
    wait_until(lambda: not processes_of(job), "the ranks are gone", log=log)
    [saved] = complete_checkpoints(tmp_path / CHECKPOINTS_FOLDER)
    last = max(ranks.read_run(tmp_path))
    assert saved.name == f"step-{last:08d}" and last < 60

    second = launch(job, root)
    assert second.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert sorted(ranks.read_run(tmp_path)) == list(range(1, 61))
    AutoModelForCausalLM.from_pretrained(tmp_path / MODEL_FOLDER)
