"""A run's file of sessions tells who took it up, from which step, and how each of them ended."""

import signal
from pathlib import Path

import pytest

from model.train.run.folder import SESSIONS_FILE
from model.train.run.metrics import JsonLines
from model.train.run.sessions import read_sessions
from tests.model.train import ranks
from tests.model.train.ranks import Fault

pytestmark = pytest.mark.usefixtures("fork_server")


def test_killed_stopped_and_rescaled(packed: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    ranks.run_ranks(job, 2, Fault(step=4, at="after rename"))
    assert ranks.run_ranks(job, 1, Fault(step=8, number=signal.SIGTERM)) == [143]
    assert ranks.run_ranks(job, 2) == [0, 0]
    killed, stopped, last = read_sessions(tmp_path / SESSIONS_FILE)
    assert [s.num_processes for s in (killed, stopped, last)] == [2, 1, 2]
    assert (killed.step, killed.how, killed.last_step) == (0, "killed", None)
    assert stopped.step == 4, "from the checkpoint that was complete before the kill"
    assert stopped.how == "stopped" and stopped.last_step in (8, 9)
    assert (last.step, last.how) == (stopped.last_step, "done")
    assert last.last_step == ranks.settings()["steps"]
    assert killed.began < stopped.began < last.began
    assert last.about["software"]["torch"]


def test_a_run_without_the_file_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / SESSIONS_FILE
    assert read_sessions(path) == []
    JsonLines(path).append(
        event="begin",
        step=0,
        batch=0,
        num_processes=1,
        device="X",
        host="h",
        commit=None,
        software={},
    )
    with path.open("a") as file:
        file.write('{"event": "e')
    assert [session.how for session in read_sessions(path)] == ["killed"]
