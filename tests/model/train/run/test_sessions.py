"""A run's file of sessions tells who took it up, from which step, and how each of them ended."""

import signal
from pathlib import Path

import pytest

from common.errors import DataError
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
    assert [s.number for s in (killed, stopped, last)] == [1, 2, 3]
    assert killed.began < stopped.began < last.began
    assert last.about["software"]["torch"]


def test_a_run_without_the_file_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / SESSIONS_FILE
    assert read_sessions(path) == []
    JsonLines(path).append(
        event="begin",
        session=1,
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


def test_an_end_belongs_to_its_own_session_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / SESSIONS_FILE
    lines = JsonLines(path)
    for number in (4, 5):
        lines.append(
            event="begin",
            session=number,
            step=0,
            batch=0,
            num_processes=1,
            device="X",
            host="h",
            commit=None,
            software={},
        )
    lines.append(event="end", session=4, step=9, how="stopped")
    assert [(s.number, s.how, s.last_step) for s in read_sessions(path)] == [
        (4, "stopped", 9),
        (5, "killed", None),
    ]


def test_lines_without_a_number_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / SESSIONS_FILE
    JsonLines(path).append(event="end", step=3, how="done")
    with pytest.raises(DataError, match=r"sessions\.jsonl was written by an earlier version"):
        read_sessions(path)
