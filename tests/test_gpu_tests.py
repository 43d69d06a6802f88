"""GPU tests are found on a bare GPU machine, and no other test sees a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.conftest import GPU_SIGNS

MISSING = ("prefect", "mlflow", "trl", "lm_eval", "hypothesis", "data_juicer")
"""Packages that a bare GPU machine lacks."""

PROGRAM = f"""
import importlib.util
import sys

find = importlib.util.find_spec

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)

sys.meta_path.insert(0, Missing())
importlib.util.find_spec = lambda name, *a: None if name in {MISSING!r} else find(name, *a)
import pytest

plugins = ["-p", "no:hypothesispytest"]
sys.exit(pytest.main(["-m", "gpu", "tests/model", "--collect-only", "-q", *plugins]))
"""


def test_they_are_collected_without_what_a_bare_machine_lacks(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    # Every operation, whole models, attention of packed documents.
    for name in ("test_rms_norm", "test_cross_entropy", "test_operators", "test_attention"):
        assert f"{name}.py::" in done.stdout


def test_other_tests_see_no_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


def test_files_with_gpu_tests_say_so(root: Path) -> None:
    """A test that is marked in another way would be left out in silence."""
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        marked = "mark.gpu" in text or "ON_GPU" in text or "@on_gpu" in text
        assert (
            path.name == Path(__file__).name
            or not marked
            or any(sign in text for sign in GPU_SIGNS)
        ), path
