"""Being asked to stop: SIGTERM sets a flag that the trainer reads once a step."""

import signal
from types import FrameType

from common.processes import die_with_parent

EXIT_STOPPED = 143
"""Exit code after a complete checkpoint on SIGTERM: 128 + 15, what a shell shows for SIGTERM."""


class Stopped(Exception):
    """Training was asked to stop and did, after a complete checkpoint at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}, with a complete checkpoint")
        self.step = step


class StopFlag:
    """True once this process was asked to stop. Only the main thread may install it."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> "StopFlag":
        """Catch SIGTERM, and ask the kernel for one when the launcher dies.

        torchrun's ranks live in sessions of their own: without the latter a killed launcher would
        leave them training for ever.
        """
        signal.signal(signal.SIGTERM, self._request)
        die_with_parent(signal.SIGTERM)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
