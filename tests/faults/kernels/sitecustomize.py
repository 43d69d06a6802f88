"""Kernels that are wrong, in whatever process of a run imports the table of kernels.

    PYTHONPATH=tests/faults/kernels STEEL_TEST_KERNELS='{"swiglu": ["faulty", "gradients"]}'

Operation -> (implementation, fault). An implementation that the table has is wrapped; another one
is entered, which wraps the eager reference. Imports nothing before the table is there.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

TABLE = "model.kernels"


class Finder(importlib.abc.MetaPathFinder):
    """Loads the table of kernels as usual, and enters the faulty ones."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Wrap the loader of that one module."""
        if name != TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            enter(module.IMPLEMENTATIONS, json.loads(os.environ["STEEL_TEST_KERNELS"]))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def enter(table: dict[str, dict[str, Any]], faults: Mapping[str, tuple[str, str]]) -> None:
    """Enter faulty implementations into a table."""
    for operation, (name, fault) in faults.items():
        sound = table[operation].get(name, table[operation]["eager"])
        table[operation][name] = tuple(faulty(function, fault) for function in sound)


def faulty(function: Callable[..., Any], fault: str) -> Callable[..., Any]:
    """A function with a fault.

    sound: none. values: the last column of the first result is not computed. gradients: only its
    gradient lacks it. nan: one NaN. shape: a row too few. raise, no memory: an error. segfault,
    hang: at the call; segfault backward: in the backward pass.
    """

    def wrong(*arguments: Any, **options: Any) -> Any:
        if fault == "raise":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if fault == "no memory":  # as a driver says it, in several lines, and not torch's allocator
            raise RuntimeError("Triton Error [CUDA]: out of memory\nSearch for it in the manual.")
        if fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            time.sleep(600)
        results = function(*arguments, **options)
        first, *rest = results if isinstance(results, tuple) else (results,)
        changed = change(first, fault)
        return (changed, *rest) if isinstance(results, tuple) else changed

    return wrong


def change(result: Any, fault: str) -> Any:
    """A result with a fault."""
    import torch

    keep = torch.ones_like(result).float()
    keep[(..., -1) if keep.ndim else ()] = 0.0 if keep.ndim else 0.9
    if fault == "values":
        return result * keep.to(result.dtype)
    if fault == "nan":
        return torch.where(keep.cumsum(0) == 1 if keep.ndim else keep > 0, torch.nan, result)
    if fault == "shape" and keep.ndim:
        return result[1:]
    if fault == "gradients" and result.requires_grad:
        result.register_hook(lambda gradient: gradient * keep.to(gradient.dtype))
    if fault == "segfault backward" and result.requires_grad:
        result.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGSEGV))
    return result


if "STEEL_TEST_KERNELS" in os.environ:
    sys.meta_path.insert(0, Finder())
