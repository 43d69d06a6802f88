"""Figures of a pretraining are those of its last step, whatever is logged and however it went."""

import signal
from pathlib import Path

import pytest

from model.train.checkpoint.folders import complete_checkpoints
from model.train.distributed.signals import EXIT_STOPPED
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE
from tasks.pretrain import summary
from tests.model.train.ranks import Fault, read_run, run_ranks, settings, write_job

TIMED = "tokens_per_second"


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("log_interval", [5, 100])
def test_stopped_between_two_lines_and_killed_at_the_end(
    packed: Path, tmp_path: Path, log_interval: int
) -> None:
    truth = write_job(packed, tmp_path / "truth", settings())
    sparse = write_job(packed, tmp_path / "sparse", settings(log_interval=log_interval))
    log = sparse.parent / "rank-0.log"
    assert run_ranks(truth, 1) == [0]
    stopped = run_ranks(sparse, 1, Fault(6, signal.SIGTERM, at="validation"))
    assert stopped == [EXIT_STOPPED], log.read_text()
    assert run_ranks(sparse, 1, Fault(12, at="after rename")) == [-9], log.read_text()
    for _ in range(2):  # resumed at the end, and when it had ended
        assert run_ranks(sparse, 1) == [0], log.read_text()
        wanted, found = (summary(job.parent / METRICS_FILE) for job in (truth, sparse))
        assert {**found, TIMED: 0} == {**wanted, TIMED: 0}
        newest = complete_checkpoints(sparse.parent / CHECKPOINTS_FOLDER)[-1]
        assert newest.name == "step-00000012"
        assert max(read_run(sparse.parent)) == 12
