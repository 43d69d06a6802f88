"""A lock on one stage key: two runs of one key cannot write at once.

The lock is a file made with O_EXCL that names its owner; the owner touches it every few seconds.
It is stale, and taken over, when its owner is a dead process of this machine, or when an owner on
another machine has not touched it for `STALE_SECONDS`.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import StageError
from common.paths import display
from common.processes import process_start

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 120.0


class StageLock:
    """Context manager that holds the lock file, or raises StageError naming who holds it."""

    def __init__(self, path: Path, *, what: str) -> None:
        self.path, self.what = path, what
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "StageLock":
        while not self._try_create():
            owner = self._owner()
            if owner is not None and not self._stale(owner):
                raise StageError(
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
        owner = self._owner()
        if owner is not None and owner.get("token") == self.token:
            self.path.unlink(missing_ok=True)

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
                }
            )
        )
        try:
            os.link(own, self.path)
        except FileExistsError:
            return False
        finally:
            own.unlink()
        return True

    def _owner(self) -> dict[str, Any] | None:
        try:
            owner = json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return owner if isinstance(owner, dict) else None

    def _stale(self, owner: dict[str, Any]) -> bool:
        if owner.get("host") == socket.gethostname():
            # A pid alone may have been given to another process since: its start time decides.
            return process_start(int(owner["pid"])) != owner.get("started")
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
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found = json.loads(stale.read_text())
            if owner is not None and found.get("token") != owner.get("token"):
                # Another contender was faster and this is its fresh lock: give it back.
                with contextlib.suppress(FileExistsError):
                    os.link(stale, self.path)
        stale.unlink()

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return


def is_held(path: Path) -> bool:
    """True if a live process holds the lock in this file."""
    lock = StageLock(path, what="")
    owner = lock._owner()
    return owner is not None and not lock._stale(owner)
