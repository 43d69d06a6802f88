"""Comparison of every shard with its MD5 before first use: no token of a damaged one is trained on.

    <session's folder>/verified/<machine>/
                           <md5>.lock     held (flock) by the process that is hashing the shard
                           <md5>.json     what its files were like (inode, size, times) when right

Hashing takes as long as reading, so the ranks of a machine share it: a shard is hashed by the first
one that needs it, and the others rely on its mark while the files are still the same ones. A
file's change time cannot be set back, so damage behind a restored modification time is hashed anew.
A lock ends with its process. A restart is a new launch and checks everything again; so does another
machine, which has memory and perhaps disks of its own.

`verify` waits for an answer; `verify_ahead` has idle threads hash what will be needed soon.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import platform
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import hashing_threads, write_status
from model.data.manifest import ShardInfo
from model.data.shards import check_shard, check_sizes

log = logging.getLogger(__name__)

Identity = tuple[tuple[int, ...], tuple[int, ...]]
"""Device, inode, size, modification and change time of both files of a shard."""


@dataclass(frozen=True)
class _State:
    """Parts that a forked process must not inherit: threads, and locks that threads may hold."""

    pid: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    busy: dict[str, threading.Lock] = field(default_factory=dict)
    """Held while a shard is being hashed."""
    waiting: deque[tuple[Path, ShardInfo]] = field(default_factory=deque)
    """To be checked ahead, in this order."""
    workers: set[threading.Thread] = field(default_factory=set)
    """They end when nothing waits."""


class ShardVerifier:
    """Compares shards with their manifest, each once a launch and machine.

    May be shared by threads and datasets, forked and pickled.

    Args:
        marks: folder that the processes of one launch on one machine share; none: this process
            checks for itself. See `marks_folder`.
        threads: that hash at once; by default the cores divided by the ranks of this machine.
    """

    def __init__(self, marks: Path | None = None, *, threads: int | None = None) -> None:
        self.marks = marks
        if marks is not None:
            marks.mkdir(parents=True, exist_ok=True)
        self.threads = threads or hashing_threads()
        self._right: dict[str, Identity] = {}
        self._state = _State(os.getpid())

    def verify(self, shards: Sequence[tuple[Path, ShardInfo]]) -> None:
        """Compare shards, each in its folder, with the manifest. Returns when all are right.

        Raises:
            DataError: a shard is missing, truncated, too long, or holds other content; names it.
        """
        unknown = [pair for pair in shards if not self._is_known(*pair)]
        if len(unknown) > 1 and self.threads > 1:
            with ThreadPoolExecutor(min(self.threads, len(unknown))) as pool:
                list(pool.map(lambda pair: self._verify(*pair, wait=True), unknown))
        else:
            for folder, shard in unknown:
                self._verify(folder, shard, wait=True)

    def verify_ahead(self, folder: Path, shard: ShardInfo) -> None:
        """Have a shard checked soon, in the background; what is wrong with it is logged."""
        state = self._here()
        with state.lock:
            state.waiting.append((folder, shard))
            if len(state.workers) < max(1, self.threads // 2):
                # Not an executor: the interpreter would empty its queue before it ends.
                worker = threading.Thread(
                    target=self._work, args=(state,), name="shard-verifier", daemon=True
                )
                state.workers.add(worker)
                worker.start()

    def close(self) -> None:
        """Drop what is to be checked ahead and wait for the shards that are being hashed."""
        state = self._here()
        with state.lock:
            state.waiting.clear()
            workers = list(state.workers)
        for worker in workers:
            worker.join()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_state"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = _State(os.getpid())

    def _is_known(self, folder: Path, shard: ShardInfo) -> bool:
        """Return True if this process found the files, as they are now, to be right."""
        return self._right.get(_key(folder, shard)) == _identity(folder, shard)

    def _work(self, state: _State) -> None:
        while True:
            with state.lock:
                if not state.waiting:
                    state.workers.discard(threading.current_thread())
                    return
                folder, shard = state.waiting.popleft()
            try:
                if not self._is_known(folder, shard):
                    self._verify(folder, shard, wait=False)
            except DataError as error:
                log.warning("%s. Training will end where it comes to this shard", error)
            except OSError as error:  # whoever needs the shard will meet it, too, and raise it
                log.warning("cannot check shard %r ahead of its use: %s", shard.name, error)

    def _verify(self, folder: Path, shard: ShardInfo, *, wait: bool) -> None:
        """Hash a shard unless another thread or process has, or (without `wait`) is just at it."""
        key = _key(folder, shard)
        state = self._here()
        with state.lock:
            busy = state.busy.setdefault(key, threading.Lock())
        if not busy.acquire(blocking=wait):
            return
        try:
            with self._claim(shard, wait=wait) as claimed:
                if claimed and not self._is_known(folder, shard):
                    self._right[key] = self._marked(folder, shard) or self._hash(folder, shard)
        finally:
            busy.release()

    def _hash(self, folder: Path, shard: ShardInfo) -> Identity:
        while True:
            before = _identity(folder, shard)
            check_shard(folder, shard)
            if before == _identity(folder, shard):  # else it was replaced meanwhile
                break
        if self.marks is not None:
            with contextlib.suppress(FileNotFoundError):  # the session is over
                write_status(self._mark(shard), before)
        return before

    def _marked(self, folder: Path, shard: ShardInfo) -> Identity | None:
        """Identity of the files, if a mark says that they were right like this; else None."""
        if self.marks is None:
            return None
        try:
            tokens, index = json.loads(self._mark(shard).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        found = _identity(folder, shard)
        return found if found == (tuple(tokens), tuple(index)) else None

    def _mark(self, shard: ShardInfo) -> Path:
        assert self.marks is not None
        return self.marks / f"{shard.md5}.json"

    @contextlib.contextmanager
    def _claim(self, shard: ShardInfo, *, wait: bool) -> Iterator[bool]:
        """Hold the lock that all processes of the launch respect; False: another holds it."""
        if self.marks is None:
            yield True
            return
        try:
            file = (self.marks / f"{shard.md5}.lock").open("wb")
        except FileNotFoundError:  # the session is over: its marks are gone
            yield True
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            except OSError:  # a file system without locks: work is done twice, but done
                yield True
            else:
                yield True  # released as the file is closed

    def _here(self) -> _State:
        if self._state.pid != os.getpid():
            self._state = _State(os.getpid())
        return self._state


def marks_folder(verified: Path) -> Path:
    """Folder in which the processes of this machine mark shards; `verified` is of one launch."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    suffix = boot.read_text().strip()[:8] if boot.is_file() else ""
    return verified / f"{platform.node() or 'machine'}-{suffix}"


def _key(folder: Path, shard: ShardInfo) -> str:
    return f"{folder / shard.name}\n{shard.md5}\n{shard.index_md5}"


def _identity(folder: Path, shard: ShardInfo) -> Identity:
    """Raises DataError for a file that is missing or of another size."""
    tokens, index = check_sizes(folder, shard)
    return _numbers(tokens), _numbers(index)


def _numbers(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
