"""GPUs are counted as torch counts them, without importing it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.errors import ConfigError
from model.train.distributed import gpus
from model.train.distributed.context import distributed_context

PROGRAM = """
import sys
from model.train.distributed.gpus import num_gpus
print(num_gpus(), "torch" in sys.modules)
"""


def test_the_number_is_torchs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for visible in (None, "", "0"):
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True
        )
        expected = torch.cuda.device_count() if visible != "" else 0
        assert done.stdout.split() == [str(expected), "False"]


def test_a_loaded_torch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert gpus.num_gpus() == 8


def test_a_driver_that_fails_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "DEVICES", (str(tmp_path),))
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(gpus, "COUNT", "raise OSError")
    assert gpus.num_gpus() == 0


def test_ranks_do_not_share_a_gpu() -> None:
    gpus.check_one_each(8, 8)
    gpus.check_one_each(2, 0)  # without a GPU they share the processor
    with pytest.raises(ConfigError, match=r"2 ranks on this machine, which has 1 GPU"):
        gpus.check_one_each(2, 1)


def test_a_rank_without_a_gpu_does_not_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the ranks were started by hand, without a check of a configuration."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="num_processes"), distributed_context():
        pass
