"""Waiting for other processes, and what Linux's /proc shows of them; they may end meanwhile."""

import contextlib
import multiprocessing.process
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 240.0
"""Seconds until a wait counts as a hang, however busy the machine is; a test may have two or three
before pytest's own limit, which cannot say what was waited for."""


def wait_until(
    condition: Callable[[], T],
    what: str,
    *,
    process: "subprocess.Popen[bytes] | subprocess.Popen[str] | None" = None,
    rank: multiprocessing.process.BaseProcess | None = None,
    log: Path | None = None,
    seconds: float = PATIENCE_SECONDS,
) -> T:
    """Wait until a condition holds; returns its value.

    Args:
        condition: what is asked again and again.
        what: the same in words, for the error.
        process, rank: whoever brings it about; once it has ended nobody waits any longer.
        log: file whose end is shown in the error.
        seconds: after which it counts as a hang.

    Raises AssertionError when it has not come about.
    """
    deadline = time.monotonic() + seconds
    while True:
        # Looked at first: what it brought about just before its end is seen below.
        ended = process.poll() if process is not None else rank.exitcode if rank else None
        if value := condition():
            return value
        shown = f"; {log}:\n{log.read_text()[-3000:]}" if log is not None and log.exists() else ""
        assert ended is None, f"{what}: the process has ended before, with {ended}{shown}"
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s{shown}"
        time.sleep(0.02)


def default_sigint() -> None:
    """For `preexec_fn`: where tests run in a shell's background they ignore Ctrl-C, and so would
    their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
