"""Partitions packed by worker processes, the largest first.

    partitions ──one by one──▶ python -m corpus.packing  ──▶ progress, then the partition's shards
                 stdin, JSON lines          stdout, JSON lines        stderr ─▶ log

A worker lives as long as its stdin is open: it ends at once when this process is gone, however it
went. The lock on the folder is held by this process and its workers together, so whoever continues
an interrupted run waits until the last of them has stopped writing.
"""

import contextlib
import errno
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import DataError, StageError
from common.paths import ROOT, display
from corpus.packing.fast_encoder import DifferentIds
from corpus.packing.pack_partition import PackJob, pack_partition, shard_prefix
from corpus.partitions import Partition
from model.data.manifest import ShardInfo
from model.tokenizer.encoder import Encoder

WORTH_A_WORKER = 64 * 1024**2
"""Bytes of text for which another process is worth its start."""

LOCK_SECONDS = 60.0
"""How long workers of an interrupted run may take to end; they do so at once."""

LOG_TAIL = 20

_ERRORS = {kind.__name__: kind for kind in (DataError, DifferentIds)}


def automatic(num_bytes: int) -> int:
    """How many workers `auto` means: one for each core, but none for very little text."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, num_bytes // WORTH_A_WORKER))


def pack_partitions(
    job: PackJob,
    encoder: Encoder,
    partitions: Sequence[Partition],
    workers: int,
    scratch: Path,
    tick: Callable[[int], None],
) -> list[ShardInfo]:
    """Pack partitions and return all their shards.

    Args:
        encoder: for this process, where it works alone.
        workers: processes; 1: this one.
        scratch: an existing folder for logs and the lock.
        tick: told a few times a second how many bytes are behind all workers.

    Raises:
        DataError, DifferentIds: what the first worker says that has failed.
        StageError: a worker was killed, or an earlier run's workers do not end.
    """
    # The largest first, lest one of them be all that is left to do at the end.
    order = sorted(partitions, key=lambda partition: (-partition.size, shard_prefix(partition)))
    done: dict[str, int] = {}

    def notice(partition: Partition, at: int) -> None:
        done[shard_prefix(partition)] = at
        tick(sum(done.values()))

    with _writing(scratch / "lock") as lock:
        if min(workers, len(order)) <= 1:
            found = [pack_partition(job, encoder, p, partial(notice, p)) for p in order]
            return [shard for shards in found for shard in shards]
        return _Workers(job, order, scratch, lock, notice).run(min(workers, len(order)))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[int]:
    """The lock of whoever writes shards: workers inherit the descriptor, and with it the lock."""
    with path.open("wb") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StageError(
                        f"worker processes of an interrupted run still hold {display(path)}: end "
                        "them (python -m corpus.packing) and run again"
                    ) from None
                time.sleep(0.1)
            except OSError as error:
                # A file system without locks: there, workers that end by themselves must do.
                if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    raise
                break
        yield file.fileno()


@dataclass(frozen=True, kw_only=True)
class _Death:
    """A worker ended without having been asked to."""

    partition: Partition
    status: int
    log: Path

    def error(self) -> StageError:
        worker = f"the worker process that packed {display(self.partition.path)}"
        if self.status == -signal.SIGKILL:
            return StageError(
                f"{worker} was killed, most likely because memory ran out. What is "
                "finished is kept: run again with fewer pack.workers "
                "(each needs about 0.4 GB, and some eight times the longest line)"
            )
        if self.status < 0:
            return StageError(
                f"{worker} was ended by "
                f"{signal.Signals(-self.status).name}. What is finished is kept: run again; if it "
                "happens again, with pack.encoder: transformers"
            )
        tail = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL:])
        return StageError(
            f"{worker} ended with status {self.status} (log {display(self.log)}):\n{tail}"
        )


class _Workers:
    """Processes, and a thread for each that hands it partitions and listens."""

    def __init__(
        self,
        job: PackJob,
        partitions: Sequence[Partition],
        scratch: Path,
        lock: int,
        notice: Callable[[Partition, int], None],
    ) -> None:
        self.lock, self.scratch, self.notice = lock, scratch, notice
        self.first = json.dumps(asdict(job)).encode() + b"\n"
        self.waiting: queue.SimpleQueue[Partition] = queue.SimpleQueue()
        for partition in partitions:
            self.waiting.put(partition)
        self.num_partitions = len(partitions)
        self.said: queue.SimpleQueue[tuple[Partition, dict[str, Any]] | _Death] = (
            queue.SimpleQueue()
        )

    def run(self, workers: int) -> list[ShardInfo]:
        shards: list[ShardInfo] = []
        with contextlib.ExitStack() as stack:
            for number in range(workers):
                log = self.scratch / f"worker-{number}.log"
                child = self._start(log)
                stack.callback(_end, child)
                threading.Thread(target=self._feed, args=(child, log), daemon=True).start()
            left = self.num_partitions
            while left:
                try:
                    # Not without an end: whoever cancels the run is heard between two of these.
                    event = self.said.get(timeout=0.5)
                except queue.Empty:
                    continue
                if isinstance(event, _Death):
                    raise event.error()
                partition, message = event
                if "at" in message:
                    self.notice(partition, message["at"])
                elif "shards" in message:
                    shards += [ShardInfo(**shard) for shard in message["shards"]]
                    left -= 1
                else:
                    raise _error(message["error"])
        return shards

    def _start(self, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "corpus.packing"],
                cwd=ROOT,
                pass_fds=[self.lock],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                # A core for each worker: threads inside of workers would get into each other's way.
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
            )

    def _feed(self, child: "subprocess.Popen[bytes]", log: Path) -> None:
        assert child.stdin and child.stdout
        to_send = self.first
        while True:
            try:
                partition = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                child.stdin.write(to_send + json.dumps(asdict(partition)).encode() + b"\n")
                child.stdin.flush()
                to_send = b""
                message: dict[str, Any] = {}
                while "shards" not in message and (line := child.stdout.readline()):
                    message = json.loads(line)
                    self.said.put((partition, message))
            except (OSError, ValueError):  # its end of the pipe is closed, or ours by `run`
                message = {}
            if "shards" not in message:
                self.said.put(_Death(partition=partition, status=child.wait(), log=log))
                return


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Stop a worker, wherever it is: what it has not finished is begun again."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe
        with contextlib.suppress(OSError):  # what was not yet sent cannot be
            pipe.close()


def _error(left: dict[str, Any]) -> Exception:
    if left["type"] == "OSError":
        return OSError(left["errno"], left["message"])
    return _ERRORS.get(left["type"], StageError)(left["message"])
