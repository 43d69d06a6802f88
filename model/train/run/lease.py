"""The lease of a run's folder: only the newest session of a run writes there.

    RUN/lease/00000007.json     claim of session 7: host, process, time; made once, never changed
    RUN/lease/00000007-5be2…/   folder of session 7, as long as no later session took the run up
        lease.json                opened before each write: gone when this session was replaced
        …                         what is being prepared, until one rename publishes it

    take      claim the next number (a file made with O_EXCL) ─▶ move the folders of earlier
              sessions into the own one, which ends their leases ─▶ delete them there
    publish   prepare in the own folder ─▶ check ─▶ rename to its place
    remove    check ─▶ rename into the own folder ─▶ delete there
    append    check ─▶ write to a file held open; each session goes on with a copy of its own

A check alone would not do: a process may be stopped between the check and the write, for hours.
When it goes on its folder is gone, and a rename out of it or into it fails, whatever stands at the
other end; what it appends reaches a file that has no name any more. No file is ever written or cut
in its place. Nothing depends on clocks, on locks of the file system, or on who is still alive.
docs/adr/0026
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from common.files import settle, sync
from model.entry.launch import exit_now
from model.train.run.folder import LEASE_FOLDER

log = logging.getLogger(__name__)

EXIT_REPLACED = 4
"""Exit code of a process whose session was replaced by a later one."""
LEASE_FILE = "lease.json"


class Ranks(Protocol):
    """Part of the ranks of a session that a lease needs (model/train/distributed/context.py)."""

    @property
    def is_main(self) -> bool: ...
    def gather(self, value: Any) -> list[Any]: ...


class Lease:
    """The right to write to a run's folder; any thread may use it.

    Every method but `take` and `share` ends the process, with one sentence and EXIT_REPLACED, when
    a later session has taken the run up. Raises OSError as the file system does.
    """

    def __init__(self, run: Path, number: int, token: str) -> None:
        self.run = run
        self.number = number
        self.folder = run / LEASE_FOLDER / f"{number:08d}-{token}"
        """Folder of this session; what is published has to be prepared in it."""
        self._process = uuid.uuid4().hex[:8]
        self._count = itertools.count()

    @classmethod
    def take(cls, run: Path) -> "Lease":
        """Begin a session of the run; the ones before end. Called by one process of each session.

        Of several processes that begin a session at the same moment one goes on.
        """
        place = run / LEASE_FOLDER
        place.mkdir(parents=True, exist_ok=True)
        lease = cls(run, 1 + max(_numbers(place), default=0), uuid.uuid4().hex)
        about = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
        try:
            lease.folder.mkdir()
            (lease.folder / LEASE_FILE).write_text(about, encoding="utf-8")
            # Claims stay for good, so a process that was stopped here for long claims none anew.
            with (place / f"{lease.number:08d}.json").open("x", encoding="utf-8") as claim:
                claim.write(about)
        except (FileExistsError, FileNotFoundError):
            shutil.rmtree(lease.folder, ignore_errors=True)
            lease.check()
        sync(place)
        lease._end_earlier(place)
        lease.check()
        return lease

    @classmethod
    def share(cls, run: Path, ranks: Ranks) -> "Lease":
        """Begin a session of several ranks; called by all of them together."""
        lease = cls.take(run) if ranks.is_main else None
        name: str = ranks.gather(lease.folder.name if lease else "")[0]
        number, _, token = name.partition("-")
        return lease or cls(run, int(number), token)

    def _end_earlier(self, place: Path) -> None:
        for name in _names(place):
            earlier = not name.endswith(".json") and _number(name) <= self.number
            if earlier and name != self.folder.name:
                gone = self.stage("replaced")
                with contextlib.suppress(FileNotFoundError):
                    _rename(place / name, gone)
                    # First: a network file system's cache may still have the folder, and only an
                    # opening looks behind it.
                    (gone / LEASE_FILE).unlink(missing_ok=True)
                    shutil.rmtree(gone, ignore_errors=True)

    def held(self) -> bool:
        """Return True while no later session has taken the run up.

        Costs one opening of a small file, anew each time, because a network file system answers
        other questions from its cache.
        """
        try:
            with (self.folder / LEASE_FILE).open("rb"):
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ESTALE:
                return False
            raise

    def check(self) -> None:
        """End this process if its session was replaced. To be called just before a write."""
        if not self.held():
            self._end()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Check, and check again when the block fails, which then may have that very reason."""
        self.check()
        try:
            yield
        except Exception:
            self.check()
            raise

    def stage(self, name: str) -> Path:
        """Path in the session's folder that nothing else uses; nothing is there yet."""
        return self.folder / f"{self._process}-{next(self._count)}-{name}"

    @contextlib.contextmanager
    def complete_file(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a binary file that appears as `path`, durable, only when the block ends well."""
        with self.guard():
            prepared = self.stage(path.name)
            with prepared.open("xb", buffering=1 << 20) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._publish(prepared, path)

    def write_text(self, path: Path, text: str) -> None:
        """Publish a text file in UTF-8."""
        with self.complete_file(path) as file:
            file.write(text.encode())

    def write_json(self, path: Path, value: Any) -> None:
        """Publish a JSON file, indented for people."""
        self.write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def write_status(self, path: Path, value: Any) -> None:
        """Replace a small JSON file without flushing it: for what no restart needs."""
        with self.guard():
            prepared = self.stage(path.name)
            prepared.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
            self.publish_file(prepared, path)

    def publish_file(self, prepared: Path, path: Path) -> None:
        """Give a file that was prepared in the session's folder its name, without flushing it."""
        with self.guard():
            self._publish(prepared, path, durable=False)

    def publish_folder(self, prepared: Path, path: Path) -> None:
        """Give a folder that was prepared in the session's folder its name, replacing what had it;
        its files are fsynced first."""
        assert prepared.is_relative_to(self.folder), "only a rename out of there is safe"
        with self.guard():
            settle(prepared)
            # A folder cannot be replaced in one rename: the worst a kill can leave is neither.
            old = self._move_away(path)
            self._publish(prepared, path)
            if old is not None:
                _delete(old)

    def remove(self, path: Path) -> None:
        """Remove a file or a folder, if it is there; half of it never looks complete."""
        with self.guard():
            if (old := self._move_away(path)) is not None:
                _delete(old)

    def move(self, path: Path, target: Path) -> None:
        """Give a file or a folder of the run another name, replacing what had it."""
        with self.guard():
            if (old := self._move_away(path)) is not None:
                self.remove(target)
                self._publish(old, target)

    def make_folder(self, path: Path) -> None:
        """Make a folder of the run, with its parents, where there is none."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with self.guard():
            prepared = self.stage(path.name)
            prepared.mkdir()
            try:
                self.check()
                _rename(prepared, path)
            except OSError:
                if not path.is_dir():  # else another rank was faster
                    raise
                prepared.rmdir()

    def release(self) -> None:
        """End the session, all of whose work is done; what it had prepared is deleted."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _publish(self, prepared: Path, path: Path, *, durable: bool = True) -> None:
        self.make_folder(path.parent)
        self.check()
        _rename(prepared, path)
        if durable:
            sync(path.parent)

    def _move_away(self, path: Path) -> Path | None:
        """Take something out of the run; its place in the session's folder, None if not there."""
        if not path.exists():
            return None
        gone = self.stage(path.name)
        self.check()
        try:
            _rename(path, gone)
        except FileNotFoundError:
            self.check()
            return None
        return gone

    def _end(self) -> NoReturn:
        log.error(
            "session %d of the run in %s was replaced%s: process %d on %s ends without writing",
            self.number,
            self.run,
            self._successor(),
            os.getpid(),
            socket.gethostname(),
        )
        exit_now(EXIT_REPLACED)

    def _successor(self) -> str:
        """Describe who took the run up, as far as that can be read."""
        place = self.run / LEASE_FOLDER
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            number = max(_numbers(place))
            about = json.loads((place / f"{number:08d}.json").read_text(encoding="utf-8"))
            return f" by session {number} (process {about['pid']} on {about['host']})"
        return ""


def _rename(path: Path, target: Path) -> None:
    """The one step of each change; what it replaces is a file, an empty folder or nothing."""
    path.replace(target)


def _delete(path: Path) -> None:
    """Delete what was moved into the session's folder; nothing depends on it any more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _numbers(place: Path) -> Iterator[int]:
    """Numbers of all claims."""
    return (_number(name) for name in _names(place) if name.endswith(".json"))


def _names(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if path.name[:8].isdigit()]


def _number(name: str) -> int:
    return int(name[:8])
