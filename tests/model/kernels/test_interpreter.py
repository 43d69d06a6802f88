"""Our Triton kernels on this CPU, in Triton's interpreter.

It must be on before Triton is first imported, and would change the rest of the suite: so the cases
called `…-interpreted` of each file run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels import triton_support

FILES = sorted(
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name not in ("test_interpreter.py", "test_choice.py", "test_gpu_code.py")
)


@pytest.mark.skipif(not triton_support.INSTALLED, reason="needs the package triton")
@pytest.mark.skipif(triton_support.INTERPRETED, reason="this is the process that it starts")
@pytest.mark.parametrize("file", FILES)
def test_cases_hold_in_the_interpreter(file: str, root: Path) -> None:
    command = [sys.executable, "-m", "pytest", f"tests/model/kernels/{file}", "-q", "-x"]
    # numpy warns where exp overflows to infinity, which is meant.
    command += ["-k", "interpreted", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
