"""Packed data, and trainers in this process or in several."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import from_json
from model.train.build import build
from model.train.config import PretrainJob
from model.train.distributed.context import distributed_context
from model.train.distributed.signals import StopFlag
from model.train.trainer import Trainer
from tests.model.train import ranks


@pytest.fixture(scope="session")
def fork_server() -> Iterator[None]:
    """A process with everything imported, which ranks are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.model.train.ranks"])
    before = os.environ.get("PYTHONPATH")
    # The server starts with the environment of this moment; its imports need these folders.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    warm_up = context.Process(target=os.getpid)
    warm_up.start()
    warm_up.join()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    yield


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the stage `pack` leaves it."""
    return ranks.write_packed(tmp_path_factory.mktemp("packed"), seed=2)


@pytest.fixture(scope="session")
def uninterrupted(
    packed: Path, fork_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Output of a run of two processes that nothing disturbed."""
    output = tmp_path_factory.mktemp("uninterrupted")
    job = ranks.write_job(packed, output, ranks.settings())
    assert ranks.run_ranks(job, 2) == [0, 0], (output / "rank-0.log").read_text()
    return output


@pytest.fixture
def make_run(packed: Path, tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Build a run of one process in this process: make_run(output="a", steps=3)."""
    torch.set_num_threads(1)
    with distributed_context() as here:
        made: list[Trainer] = []

        def make(output: str = "run", data: Path = packed, **changes: Any) -> Trainer:
            path = ranks.write_job(
                data, tmp_path / output, ranks.settings(**{"warmup_steps": 0, **changes})
            )
            job = from_json(PretrainJob, path)
            made.append(build(job, here, StopFlag()))
            return made[-1]

        yield make
        for run in made:
            run.close()
