"""Peak FLOP/s of a device: the datasheet's figure, and what its own matrix products reach.

MFU is given against both. Papers divide by the datasheet's peak, which no product reaches (power
limits the clock); the measured one says how much is left to gain.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from model.cost.gpus import gpu_of_driver

CUDA_SIZE = 8192
CPU_SIZE = 512
CPU_SECONDS = 0.05


def datasheet_peak(device: torch.device) -> float | None:
    """FLOP/s in bf16 of this device; None where no datasheet says (any CPU)."""
    if device.type != "cuda":
        return None
    return peak_of_name(torch.cuda.get_device_name(device))


def peak_of_name(name: str) -> float | None:
    """Datasheet peak of a device by its name (model/cost/gpus.py), FLOP/s in bf16."""
    gpu = gpu_of_driver(name)
    return None if gpu is None else gpu.flops


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of large square matrix products here and now; takes about 50 ms.

    Ranks that share a machine should call it together, as they train together.
    """
    size = CUDA_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    torch.mm(left, right, out=out)  # chooses a kernel, raises clocks
    seconds = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    return 2 * size**3 / seconds(lambda: torch.mm(left, right, out=out))


def _cuda_seconds(work: Callable[[], object], repeats: int = 10, rounds: int = 4) -> float:
    marks: list[Any] = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(rounds + 1)
    ]
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(repeats):
            work()
        mark.record()
    marks[-1].synchronize()
    fastest: float = min(start.elapsed_time(end) for start, end in itertools.pairwise(marks))
    return fastest / repeats / 1000


def _cpu_seconds(work: Callable[[], object]) -> float:
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < CPU_SECONDS:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
