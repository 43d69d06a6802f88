"""A lock on one stage key: two runs of one key cannot write at once.

The lock is a file made with O_EXCL that names its owner; the owner touches it every few seconds.
It is stale, and taken over, when its owner is a dead process of this machine, or when an owner on
another machine has not touched it for `STALE_SECONDS`.

An owner may be stopped for longer and wake up beside its successor. It touches its own file only,
which has no name any more; sees there, or where it asks, that it lost the lock; and ends.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import DataError, StageError
from common.files import write_status
from common.paths import display
from common.processes import process_start

HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 1.0
"""Time between two looks of a process that waits for a lock."""
STALE_SECONDS = 120.0


class WorkedSeconds:
    """Seconds that were worked on a stage, in all its sessions, those that were killed too."""

    def __init__(self, path: Path) -> None:
        """path: file that remembers them; need not be there."""
        self.path, self.before = path, 0.0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self.before = float(json.loads(path.read_text("utf-8"))["seconds"])
        self.began = time.monotonic()

    def total(self, waited: float = 0.0) -> float:
        """Seconds until now, without those that this session has waited."""
        return self.before + time.monotonic() - self.began - waited

    def note(self, waited: float = 0.0) -> None:
        """Remember them, should this process be killed."""
        with contextlib.suppress(OSError):  # a full disk is told by whoever writes results
            write_status(self.path, {"seconds": round(self.total(waited), 3)})


class LockedError(StageError):
    """Another process holds a lock, and is not waited for."""


class StageLock:
    """Context manager that holds the lock file, or raises LockedError naming who holds it.

    waiting: called with the owner every second or so while there is one; may raise. With it the
    lock is waited for; without it a lock that is held is an error at once.
    """

    def __init__(
        self, path: Path, *, what: str, waiting: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.path, self.what, self.waiting = path, what, waiting
        self.token = uuid.uuid4().hex
        self.lost = False
        """True once another process was seen to have the lock."""
        self.beat: Callable[[], None] | None = None
        """Called with each heartbeat."""
        self._held: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "StageLock":
        while not self._try_create():
            owner = self._owner()
            if owner is not None and not self._stale(owner):
                if self.waiting is not None:
                    self.waiting(owner)
                    time.sleep(POLL_SECONDS)
                    continue
                raise LockedError(
                    f"{self.what} is being made by process {owner.get('pid')} on "
                    f"{owner.get('host')} (lock {display(self.path)}). Wait for it, or stop it."
                )
            self._remove(owner)
        self._thread = threading.Thread(target=self._heartbeat, daemon=True, name="stage-lock")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._held is not None:
            os.close(self._held)
            self._held = None
        if self._is_own():
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise StageError when another process has taken the lock from this one.

        To be called just before what others see is written.
        """
        if not self._is_own():
            self.lost = True
        if self.lost:
            owner = self._owner()
            how = (
                f"process {owner.get('pid')} on {owner.get('host')} has" if owner else "nobody has"
            )
            raise StageError(
                f"{self.what}: this process lost the lock {display(self.path)}, which {how} now; "
                f"it did not run for {STALE_SECONDS:.0f} s or more, or the file was removed. It "
                "ends without publishing anything; where nobody goes on, run again"
            )

    def _is_own(self) -> bool:
        owner = self._owner()
        return owner is not None and owner.get("token") == self.token

    def _try_create(self) -> bool:
        """Put the complete lock file in place in one atomic step, if there is none."""
        own = self.path.with_name(f"{self.path.name}.{self.token}")
        own.write_text(
            json.dumps(
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "started": process_start(os.getpid()),
                    "token": self.token,
                    "what": self.what,
                    "since": time.time(),
                }
            )
        )
        held = os.open(own, os.O_RDONLY)
        try:
            os.link(own, self.path)
        except FileExistsError:
            os.close(held)
            return False
        finally:
            own.unlink()
        self._held = held
        return True

    def _owner(self) -> dict[str, Any] | None:
        if self.path.is_dir():
            raise DataError(f"{display(self.path)} should be a file and is a folder: move it away")
        try:
            owner = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return owner if isinstance(owner, dict) and isinstance(owner.get("pid"), int) else None

    def _stale(self, owner: dict[str, Any]) -> bool:
        if owner.get("host") == socket.gethostname():
            # A pid alone may have been given to another process since: its start time decides.
            return process_start(owner["pid"]) != owner.get("started")
        try:
            return time.time() - self.path.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            return True

    def _remove(self, owner: dict[str, Any] | None) -> None:
        """Take a stale lock away, by a rename that only one of several contenders can win."""
        stale = self.path.with_name(f"{self.path.name}.{self.token}.stale")
        try:
            self.path.rename(stale)
        except FileNotFoundError:
            return
        with contextlib.suppress(FileNotFoundError, ValueError, AttributeError):
            found = json.loads(stale.read_text())
            if owner is not None and found.get("token") != owner.get("token"):
                # Another contender was faster and this is its fresh lock: give it back.
                with contextlib.suppress(FileExistsError):
                    os.link(stale, self.path)
        stale.unlink()

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            assert self._held is not None
            with contextlib.suppress(OSError):  # a file system that does not answer now
                if (beat := self.beat) is not None:
                    beat()
                os.utime(self._held)  # never the file of a successor, which has the same name
                if not self._is_own():
                    self.lost = True
                    return


def is_held(path: Path) -> bool:
    """True if a live process holds the lock in this file."""
    lock = StageLock(path, what="")
    owner = lock._owner()
    return owner is not None and not lock._stale(owner)
