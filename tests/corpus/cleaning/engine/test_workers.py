"""Worker processes: order of results, errors, killed workers."""

import itertools
import os
import signal
from pathlib import Path

import pytest

from common.errors import StageError
from corpus.cleaning.engine.workers import map_in_workers
from tests.processes import wait_until


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_work(workers: int) -> None:
    ticks: list[None] = []
    results = map_in_workers(lambda n: n * n, range(50), workers, lambda: ticks.append(None))
    assert list(results) == [n * n for n in range(50)]
    assert ticks


def test_killed_worker_is_one_clear_error(tmp_path: Path) -> None:
    def work(n: int) -> int:
        if n == 5:
            wait_until((tmp_path / "0").exists, "another worker has done its part")
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / str(n)).touch()
        return n

    with pytest.raises(StageError, match=r"memory ran out.*clean\.workers"):
        list(map_in_workers(work, itertools.count(), 2, lambda: None))
    assert (tmp_path / "0").exists()


def test_error_in_a_worker_reaches_the_caller() -> None:
    def work(n: int) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        list(map_in_workers(work, range(3), 2, lambda: None))
