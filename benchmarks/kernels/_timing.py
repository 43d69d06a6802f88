"""Timing of operations on a device: seconds of a call, bandwidth of a copy, extra memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Device and effort of a comparison."""

    device: torch.device
    compiled: bool
    """If true, torch.compile'd references are candidates too."""
    seconds: float
    """Duration of each measurement."""

    @property
    def tiny(self) -> bool:
        """True without a GPU: sizes are tiny then, and times mean nothing."""
        return self.device.type != "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the inputs: bf16 on a GPU, else fp32."""
        return torch.float32 if self.tiny else torch.bfloat16

    def random(self, *shape: int, scale: float = 1.0, learns: bool = True) -> Tensor:
        """Normal random numbers; learns: true for inputs with a gradient."""
        x = scale * torch.randn(shape, device=self.device)
        return x.to(self.dtype).requires_grad_(learns)


def extra_gibibytes(function: Callable[[], None], setup: Setup) -> float | None:
    """Peak memory of a call above the memory before it, results included; None without a GPU."""
    if setup.tiny:
        return None
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def seconds_per_call(function: Callable[[], Any], setup: Setup, *, captured: bool = True) -> float:
    """Median time of a call; on a GPU the time of its kernels alone.

    captured: replay a CUDA graph. Otherwise several calls in a row, which is right for calls that
    keep the GPU busy longer than Python takes to launch them, and for those that a graph cannot
    hold (Liger's loss waits for the GPU).
    """
    times: list[float] = []
    for _ in range(3):  # compile, tune, fill caches
        function()
    if setup.tiny:
        end = time.perf_counter() + setup.seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    torch.cuda.synchronize()
    calls, replay = 4, function
    if captured:
        torch.cuda.empty_cache()  # the graph allocates from a pool of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        calls, replay = 1, graph.replay
    marks: list[Any] = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    ]
    first, last = marks
    end = time.perf_counter() + setup.seconds
    while len(times) < 5 or time.perf_counter() < end:
        first.record()
        for _ in range(calls):
            replay()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3 / calls)
    return statistics.median(times)


def copy_gigabytes_per_second(setup: Setup) -> float:
    """Bandwidth of a large copy on the device, counting bytes read and written."""
    size = 2**22 if setup.tiny else 2**30
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    return 2 * size / seconds_per_call(lambda: target.copy_(source), setup) / 1e9
