"""Helpers of the Triton kernels: an optional import of Triton, and launching.

The modules of kernels must import without Triton (on a laptop) and without a GPU (one is needed
only at launch), so they take `tl` and `jit` from here. With TRITON_INTERPRET=1 in the environment
before the first import, kernels run on CPU tensors, one operation after the other: for tests on
small shapes.
"""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

try:
    import triton.language as tl
    from triton import jit

    INSTALLED = True
except ImportError:
    INSTALLED = False

    class tl:  # type: ignore[no-redef]
        """The part of triton.language that defining a kernel needs; it cannot run one."""

        constexpr = object

    def jit(function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged: without Triton it is never launched."""
        return function


__all__ = ["INSTALLED", "INTERPRETED", "jit", "num_programs", "on_device", "power_of_2", "tl"]

INTERPRETED = INSTALLED and os.environ.get("TRITON_INTERPRET", "0") == "1"
"""True if kernels of this process run in Triton's interpreter."""


def unavailable_reason() -> str | None:
    """Reason why this machine cannot run the Triton kernels; None if it can."""
    if not INSTALLED:
        return "the package triton is not installed (pip install triton)"
    if not (INTERPRETED or torch.cuda.is_available()):
        return "this machine has no GPU"
    return None


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def power_of_2(at_least: int) -> int:
    """The smallest power of 2 that is at least `at_least`."""
    return 1 << (at_least - 1).bit_length() if at_least > 1 else 1


def num_programs(tensor: Tensor, per_processor: int, at_most: int) -> int:
    """Number of programs that fill the GPU if each takes many rows: `per_processor` for each
    multiprocessor."""
    if not tensor.is_cuda:
        return min(3, at_most)  # the interpreter: more than one, so that tests see the division
    processors = torch.cuda.get_device_properties(tensor.device).multi_processor_count
    return int(min(processors * per_processor, at_most))
