"""Wrong kernels in a test's own process and in those that it starts (tests/faults/kernels)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from model.kernels import IMPLEMENTATIONS
from tests.faults.kernels import sitecustomize as hook

HOOK = Path(hook.__file__).parent
"""Folder for PYTHONPATH."""
TABLE = {operation: dict(names) for operation, names in IMPLEMENTATIONS.items()}
"""Operation -> implementations, without faults."""
Faults = Mapping[str, tuple[str, str]]
"""Operation -> (implementation, fault); the faults: tests/faults/kernels/sitecustomize.py."""


def environment(faults: Faults) -> dict[str, str]:
    """Environment of processes with these faults."""
    return {"PYTHONPATH": str(HOOK), "STEEL_TEST_KERNELS": json.dumps(faults)}


def enter_faults(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    """Enter them in this process and its children, until the test ends."""
    for operation in faults:
        patch.setitem(IMPLEMENTATIONS, operation, dict(TABLE[operation]))
    hook.enter(IMPLEMENTATIONS, faults)
    for name, value in environment(faults).items():
        patch.setenv(name, value)


def enter_for_good(faults: Faults) -> None:
    """The same in a process that is a rank."""
    hook.enter(IMPLEMENTATIONS, faults)
    os.environ.update(environment(faults))
