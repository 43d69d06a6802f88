"""Processes of this machine: death with the parent, being asked to stop, start times from /proc.

A signal becomes one exception, where work can be interrupted:

    with stop_on_signals():          # SIGTERM, SIGINT (Ctrl-C), SIGHUP (a closed terminal)
        …                            # RunStopped is raised here, once
        with uninterrupted():        # not in here: it is raised when the block ends
            …

What runs when it is raised saves and ends its children (`common.child`). Further SIGTERM and SIGHUP
change nothing meanwhile; a further Ctrl-C raises KeyboardInterrupt, which ends children at once.
docs/adr/0074
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

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


def ancestors(pid: int) -> list[int]:
    """The parent of a process of this machine, its parent, and so on; none for one that is gone."""
    found: list[int] = []
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def still_runs(process: Mapping[str, Any]) -> bool:
    """True if the very process still runs that was noted down as its number `pid` and its start
    `started`: a number alone may have been given to another one since."""
    return bool(process_start(process["pid"]) == process["started"])


# ── being asked to stop ──────────────────────────────────────────────────────────────────────────

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REASONS = {
    signal.SIGTERM: "by SIGTERM",
    signal.SIGINT: "by Ctrl-C",
    signal.SIGHUP: "because its terminal was closed",
}
NOTICE = b"stopping: what can be saved is saved, within 30 s; Ctrl-C again ends it at once\n"


class RunStopped(KeyboardInterrupt):
    """The run was asked to stop, and does.

    It is no Exception: nothing has failed, and what handles failures must not take it for one.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        """Signal that asked for it."""
        self.reason = reason
        """Source of the request, as in `by SIGTERM`; empty: a cancellation."""
        self.kept: list[str] = []
        """Each stage under way and its kept work, such as `pretrain saved step 70`."""

    @property
    def message(self) -> str:
        """One sentence for people: what was kept, and how it goes on."""
        kept = ", ".join(self.kept) or "finished stages are kept"
        return f"stopped{self.reason and ' '}{self.reason}, {kept}; the same run continues"


class _Stop:
    """The state of this process's stopping."""

    def __init__(self) -> None:
        self.blocked = 0
        self.installed = False
        self.stopped: RunStopped | None = None
        self.raised = False
        self.named = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.stopped is None:
            reason = REASONS[signal.Signals(number)] if self.named else ""
            self.stopped = RunStopped(number, reason)
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), NOTICE)  # a logger's lock may be held just now
        elif number == signal.SIGINT and self.raised:
            raise KeyboardInterrupt  # whoever waits for a child kills it
        self.deliver()

    def deliver(self) -> None:
        if self.stopped is not None and not self.raised and not self.blocked:
            self.raised = True
            raise self.stopped


_stop = _Stop()


@contextlib.contextmanager
def stop_on_signals(*, named: bool = True) -> Iterator[None]:
    """Raise RunStopped in this block when a signal asks this process to stop.

    Signals that were ignored before (`nohup`, a script's background job) stay so. Does nothing
    outside the main thread, and inside another such block.

    named: the message names the signal; to be False where a scheduler sends it for somebody.
    """
    global _stop
    if _stop.installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    _stop = stop = _Stop()
    stop.installed, stop.named = True, named
    before: dict[signal.Signals, Any] = {}
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield
        stop.deliver()
    finally:
        stop.installed = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold RunStopped back until the block ends; `interruptible` allows it in a part of it."""
    stop = _stop
    stop.blocked += 1
    try:
        yield
    finally:
        stop.blocked -= 1
    stop.deliver()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Allow RunStopped inside a block that holds it back."""
    stop = _stop
    blocked, stop.blocked = stop.blocked, 0
    try:
        stop.deliver()
        yield
    finally:
        stop.blocked = blocked


def stopped() -> RunStopped | None:
    """The request to stop that this process has got; None while there is none."""
    return _stop.stopped if _stop.installed else None


def request_stop() -> None:
    """Ask this process to stop, from any of its threads; nothing happens if it stops already."""
    if _stop.installed and _stop.stopped is None:
        _stop.named = False
        # Not `signal.raise_signal`: the main thread may sleep in a system call.
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)
