"""Our Triton kernels on this CPU, in Triton's interpreter.

It must be on before Triton is first imported, and would change the rest of the suite: so the cases
called `…-interpreted` run in processes of their own.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from model.kernels import IMPLEMENTATIONS, triton_support

FILES = (*IMPLEMENTATIONS, "whole_model")
"""Each operation has its test file."""


def _broken() -> bool:
    """Triton 3.6's interpreter turns arrays of one element into scalars as NumPy 2.4 forbids."""
    triton = metadata.version("triton") if triton_support.INSTALLED else "0"
    return triton.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0"


@pytest.mark.skipif(_broken(), reason="Triton 3.6's interpreter needs NumPy below 2.4")
@pytest.mark.skipif(not triton_support.INSTALLED, reason="needs the package triton")
@pytest.mark.skipif(triton_support.INTERPRETED, reason="this is the process that it starts")
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(FILES, id="operations"),
        pytest.param(("operators",), id="operators", marks=pytest.mark.slow),
    ],
)
def test_cases_hold_in_the_interpreter(names: tuple[str, ...], root: Path) -> None:
    files = [f"tests/model/kernels/test_{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", *files, "-q", "-x"]
    # numpy warns where exp overflows to infinity, which is meant.
    command += ["-k", "interpreted", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
