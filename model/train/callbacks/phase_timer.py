"""Seconds of each phase of a step, measured without waiting for the device.

    begin("data") │ begin("forward_backward") │ begin("all_reduce") │ begin("optimizer") │ end()
    ──────────────┴───────────────────────────┴─────────────────────┴────────────────────┴───▶ time

On a GPU each boundary is a CUDA event in the stream: the time between two of them is what the
device spent (or idled, waiting for the host) in between. Events are read later, once the device has
passed them, so measuring never makes the host wait. On a CPU a boundary is a clock reading.
"""

import time
from collections import deque
from typing import Any

import torch
from torch.profiler import record_function


class PhaseTimer:
    """Seconds by phase. A phase lasts from its `begin` to the next `begin` or `end`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: deque[tuple[str | None, Any]] = deque()
        self._seconds: dict[str, float] = {}
        self._label: Any = None
        self.current: str | None = None
        """The phase that goes on; None between steps."""

    def begin(self, name: str) -> None:
        """Start a phase, and end the one before it. Traces of the profiler show its name."""
        self.end(name)
        self._label = record_function(f"steel:{name}")
        self._label.__enter__()

    def end(self, name: str | None = None) -> None:
        """End the phase; what follows is `name`, or nothing that is measured."""
        self.current = name
        if self._label is not None:
            self._label.__exit__(None, None, None)
            self._label = None
        if self._marks or name is not None:
            self._marks.append((name, self._mark()))

    def read(self) -> dict[str, float]:
        """Return seconds of each phase since the last reading, as far as the device has come."""
        while len(self._marks) >= 2:
            (name, start), (_, end) = self._marks[0], self._marks[1]
            if not isinstance(end, float) and not end.query():
                break
            if name is not None:
                self._seconds[name] = self._seconds.get(name, 0.0) + _seconds(start, end)
            self._marks.popleft()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _mark(self) -> Any:
        """Clock reading (seconds), or a CUDA event."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _seconds(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return float(end - start)
    return float(start.elapsed_time(end) / 1000)
