"""Finished stages that a process uses: what it has read is not removed while it lives.

A process holds a shared lock of the operating system on each manifest.json that it goes on from;
`steel gc` takes the exclusive one before it removes a stage. Such a lock ends with its process,
however that ends, so none is ever left over.
"""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"


class Uses:
    """The finished stages that a run goes on from; given back when the run's context is gone."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}
        weakref.finalize(self, _close, self._held)

    def release(self) -> None:
        """Let all of them go."""
        _close(self._held)

    def hold(self, folder: Path) -> bool:
        """Keep a finished stage from being removed. Returns False where it is not there (any more).

        On a file system without locks nothing is held, and nothing keeps the stage there.
        """
        if folder in self._held:
            return True
        path = folder / MANIFEST
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            there = path.is_file()  # not moved away between the two steps
        except BlockingIOError:
            there = False
        except OSError:
            there = True
        if there:
            self._held[folder] = descriptor
        else:
            os.close(descriptor)
        return there


def _close(held: dict[Path, int]) -> None:
    while held:
        with contextlib.suppress(OSError):
            os.close(held.popitem()[1])


@contextmanager
def to_be_removed(folder: Path) -> Iterator[bool]:
    """Yield True if no process uses a finished stage; none can begin to within the block."""
    path = folder / MANIFEST
    try:
        descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            pass
        yield free
    finally:
        os.close(descriptor)
