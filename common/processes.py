"""Processes of this machine: death with the parent, and start times from /proc."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PARENT = "STEEL_PARENT"
"""Environment variable that tells a child the id of the process that started it."""


ORPHAN_SECONDS = 180.0
"""Time that a process whose parent has died has to save and end before it is killed."""


NICENESS = 19
"""The lowest priority there is: whatever training needs of the processor comes first."""


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Let this process be signalled when its parent dies, and killed if it does not end then.

    Linux sends the signal by itself; a thread looks every second, for other systems, for a parent
    whose starting thread lived on, and for a process that hangs (`ORPHAN_SECONDS`). The signal is
    sent at once when the parent that `common.child` has named is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number))
    expected = os.environ.pop(PARENT, "")
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), number)
    parent = int(expected) if expected else os.getppid()
    threading.Thread(
        target=_follow_parent, args=(parent, number), daemon=True, name="parent"
    ).start()


def _follow_parent(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    if sys.platform != "linux":
        os.kill(os.getpid(), number)
    time.sleep(ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def process_start(pid: int) -> str | None:
    """Moment a process of this machine started, in clock ticks since boot; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold blanks and brackets: fields are counted after its last bracket.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
