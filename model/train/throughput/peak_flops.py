"""Peak FLOP/s of a device: the datasheet's figure, and what its own matrix products reach.

MFU is given against both. Papers divide by the datasheet's peak, which no product reaches (power
limits the clock); the measured one says how much is left to gain.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

DATASHEET_BF16_FLOPS = {
    "B300": 2250e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 tensor-core peak of one device with fp32 accumulation, FLOP/s, from NVIDIA's
datasheets (without sparsity). Of two names that fit, the longer one counts."""

CUDA_SIZE = 8192
CPU_SIZE = 512
CPU_SECONDS = 0.05


def datasheet_peak(device: torch.device) -> float | None:
    """FLOP/s in bf16 of this device; None where no datasheet says (any CPU)."""
    if device.type != "cuda":
        return None
    return peak_of_name(torch.cuda.get_device_name(device))


def peak_of_name(name: str) -> float | None:
    """Datasheet peak of a device by its name, FLOP/s in bf16."""
    fitting = [key for key in DATASHEET_BF16_FLOPS if key in name]
    return DATASHEET_BF16_FLOPS[max(fitting, key=len)] if fitting else None


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
