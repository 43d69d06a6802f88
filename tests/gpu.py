"""Tests that need a GPU: `pytest -m gpu` runs them, alone, where there is one.

Any other run hides the GPUs of its machine (conftest.py): what the CPU is asked to do is then done
on the CPU, and a training of somebody else keeps its memory. A file of tests that wants some of its
cases on a GPU imports this module, and imports nothing that a bare GPU machine lacks: torch,
Transformers and pytest are there, Prefect, MLflow, TRL, lm-eval and hypothesis may not be.
"""

from typing import Any

import pytest
import torch

ON_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
)
"""Marks of a case that needs a GPU."""


def on_gpu(test: Any) -> Any:
    """Mark a whole test so."""
    for mark in ON_GPU:
        test = mark(test)
    return test
