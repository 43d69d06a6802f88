"""Processes as Linux's /proc shows them; they may end while one looks."""

import contextlib
import os
import signal
import time
from pathlib import Path


def processes_of(job: Path) -> list[int]:
    """Processes whose command line names the job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(job) in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def started_with(variable: str, value: str) -> list[int]:
    """Processes in whose environment a variable has this value: one, and all that it started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if os.fsencode(f"{variable}={value}") in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return [pid for pid in found if alive(pid)]


def kill_all(variable: str, value: str) -> list[int]:
    """Kill the processes of `started_with`, those that are stopped too; returns them."""
    killed = []
    while left := started_with(variable, value):  # one may have started another meanwhile
        killed += left
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return killed


def alive(pid: int) -> bool:
    """True if there is such a process, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
