"""Processes of this machine: death with the parent, and start times from /proc."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PARENT = "STEEL_PARENT"
"""Environment variable that tells a child the id of the process that started it."""


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel (Linux) to signal this process when its parent dies.

    The signal is sent at once when the parent that `common.child` has named is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number))
    expected = os.environ.pop(PARENT, "")
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), number)


def process_start(pid: int) -> str | None:
    """Moment a process of this machine started, in clock ticks since boot; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold blanks and brackets: fields are counted after its last bracket.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
