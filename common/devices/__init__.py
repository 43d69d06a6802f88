"""Devices of this machine (GPUs; without any, its cores), given to one training at a time.

    take ──▶ 000000000007-<token>.json   a ticket: who, which devices, holding or waiting
                  ▲ flock                held by the process, and by the children it is passed to
    door ─────────┘                      locked for the moment in which tickets are read and changed

A ticket counts while somebody has its file locked: the kernel frees the lock when the last process
that holds it is gone, however it ended. So nothing has to be cleaned up, no server is asked, and a
training whose flow was killed keeps its devices until its own processes have ended.
First come, first served: nobody overtakes one who waits for a device that both could use.
docs/adr/0071
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.errors import StageError

WhenBusy = Literal["wait", "refuse", "share"]

FOLDER = "STEEL_DEVICES_FOLDER"
"""Environment variable: the folder of the tickets, where it is not this machine's own. Containers
that share GPUs mount one folder."""
GIVEN = "STEEL_DEVICES_GIVEN"
"""Environment variable: devices that a parent process holds for its children, joined by commas."""
CPU = "cpu"
"""Name of all cores of a machine, as one device."""
POLL_SECONDS = 1.0
SILENT_SECONDS = 60.0
"""A waiting process that has not looked for so long (it is stopped) is overtaken."""
DOOR_SECONDS = 30.0


def folder() -> Path:
    """The folder of this machine's tickets: in memory, so that it is empty after a restart."""
    if given := os.environ.get(FOLDER):
        return Path(given)
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return place / "steel-devices"


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """The part that others may know of somebody who holds devices, or waits for some."""

    what: str
    """The work: stage and label."""
    run: str = ""
    """Name of the flow run; empty outside of one."""
    folder: str = ""
    """Folder in which its progress stands."""
    pid: int = field(default_factory=os.getpid)
    """Process that took it."""
    since: float = field(default_factory=time.time)
    """Moment at which it took the devices, or began to wait; seconds since 1970."""
    names: tuple[str, ...] = ()
    """Devices that it holds; while it waits: that it could use."""
    holds: bool = False
    """True once it has them."""


class Claim:
    """Devices that this process holds until `release`, or until all who have the file are gone."""

    def __init__(self, path: Path, file: int, names: tuple[str, ...]) -> None:
        self.names = names
        self._path, self._file = path, file

    @property
    def files(self) -> tuple[int, ...]:
        """File descriptors for `pass_fds` of a child that is to hold the devices, too."""
        return (self._file,)

    def release(self) -> None:
        """Give the devices back, also for children that hold them."""
        self._path.unlink(missing_ok=True)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)


@dataclass(frozen=True)
class Others:
    """Those for whom a claim has to wait."""

    holders: list[Ticket]
    ahead: list[Ticket]


@contextlib.contextmanager
def taken(
    names: Sequence[str],
    number: int,
    ticket: Ticket,
    *,
    when_busy: WhenBusy = "wait",
    waiting: Callable[[Others], None] = lambda others: None,
    refused: Callable[[Others], StageError] | None = None,
) -> Iterator[Claim | None]:
    """Hold `number` of the devices `names` for the length of the block.

    Args:
        names: those that could be used, in the order of preference.
        number: how many are needed; all of them where there are fewer.
        ticket: what others are told.
        when_busy: wait until they are free; refuse; or share: go on without taking any.
        waiting: called every second or so while they are not free; may raise.
        refused: makes the error of `refuse`.

    Yields the claim; None where a parent holds the devices, or with `share`.

    Raises StageError where they are not free and are not waited for.
    """
    given = {name for name in os.environ.get(GIVEN, "").split(",") if name}
    if when_busy == "share" or not names or set(names) <= given:
        yield None
        return
    queue = _Queue(folder())
    claim = queue.join(names, min(number, len(names)), ticket)
    try:
        while not isinstance(claim, Claim):
            if when_busy == "refuse":
                raise refused(claim) if refused else StageError(f"{ticket.what}: devices are busy")
            waiting(claim)
            time.sleep(POLL_SECONDS)
            claim = queue.look()
        yield claim
    finally:
        queue.leave()


class _Queue:
    """The tickets of a folder, and the own one among them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path: Path | None = None
        self.file = -1
        self.claim: Claim | None = None

    def join(self, names: Sequence[str], number: int, ticket: Ticket) -> "Claim | Others":
        """Write the own ticket behind all others, and look."""
        _make(self.place)
        self.names, self.number, self.ticket = tuple(names), number, ticket
        with self._door():
            numbers = [int(path.name.partition("-")[0]) for path in self._paths()]
            name = f"{max(numbers, default=0) + 1:012d}-{uuid.uuid4().hex[:12]}.json"
            self.path = self.place / name
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self.file = os.open(self.path, flags, 0o644)
            fcntl.flock(self.file, fcntl.LOCK_EX)
            self._write(names=self.names, holds=False)
            return self._look()

    def look(self) -> "Claim | Others":
        """Take the devices if that is possible now."""
        with self._door():
            return self._look()

    def leave(self) -> None:
        """Give back what is held, and the place in the queue."""
        if self.claim is not None:
            self.claim.release()
        elif self.path is not None:
            self.path.unlink(missing_ok=True)
            os.close(self.file)
        self.claim = self.path = None

    def _look(self) -> "Claim | Others":
        os.utime(self.file)
        others = [(path, ticket, at) for path, ticket, at in self._tickets() if path != self.path]
        holders = [t for _, t, _ in others if t.holds and set(t.names) & set(self.names)]
        assert self.path is not None
        ahead = [
            ticket
            for path, ticket, seen in others
            if path.name < self.path.name
            and not ticket.holds
            and set(ticket.names) & set(self.names)
            and time.time() - seen < SILENT_SECONDS
        ]
        held = {name for ticket in holders for name in ticket.names}
        free = [name for name in self.names if name not in held]
        if ahead or len(free) < self.number:
            return Others(holders, ahead)
        chosen = tuple(free[: self.number])
        self._write(names=chosen, holds=True, since=time.time())
        self.claim = Claim(self.path, self.file, chosen)
        return self.claim

    def _write(self, **changes: Any) -> None:
        data = json.dumps({**asdict(self.ticket), **changes}).encode()
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, data, 0)

    def _paths(self) -> list[Path]:
        return sorted(self.place.glob("[0-9]*-*.json"))

    def _tickets(self) -> Iterator[tuple[Path, Ticket, float]]:
        """Tickets of the living, oldest first, and when each was touched last. Dead ones go."""
        for path in self._paths():
            if path == self.path:
                continue
            try:
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except OSError:
                continue  # given back meanwhile
            try:
                if _is_free(file):
                    with contextlib.suppress(OSError):  # of another user
                        path.unlink()
                    continue
                content = json.loads(os.read(file, 1 << 16))
                content["names"] = tuple(content["names"])
                yield path, Ticket(**content), os.fstat(file).st_mtime
            except (ValueError, TypeError, KeyError):
                continue  # none of ours
            finally:
                os.close(file)

    @contextlib.contextmanager
    def _door(self) -> Iterator[None]:
        """Keep all others from reading and changing tickets for a moment."""
        path = self.place / "door"
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            deadline = time.monotonic() + DOOR_SECONDS
            while not _lock(file):
                if time.monotonic() > deadline:
                    raise StageError(
                        f"another process keeps {path} locked, which is needed for a moment only: "
                        "it is stopped (Ctrl-Z?). Continue or end it"
                    )
                time.sleep(0.05)
            yield
        finally:
            os.close(file)


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return
    # For every user of this machine, as its devices are; each removes only files of their own.
    place.chmod(0o1777)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(file: int) -> bool:
    """True if nobody has this file locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def tickets() -> list[Ticket]:
    """Everybody on this machine who holds devices or waits for some."""
    place = folder()
    if not place.is_dir():
        return []
    queue = _Queue(place)
    with queue._door():  # a ticket that is being written is not locked yet
        return [ticket for _, ticket, _ in queue._tickets()]
