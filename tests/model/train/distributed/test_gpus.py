"""GPUs are counted as torch counts them, without importing it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.train.distributed import gpus

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
