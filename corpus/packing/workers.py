"""Partitions packed by worker processes, the largest first.

    partitions ──one by one──▶ python -m corpus.packing ──▶ progress, then the partition's shards
                  stdin, JSON lines           stdout, JSON lines

The lock on the folder is held by this process and its workers together, so a run that continues an
interrupted one waits until the last of them has stopped writing.
"""

import contextlib
import errno
import fcntl
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from common.child import Child, python
from common.errors import StageError, SteelError
from common.files import write_json
from common.paths import display
from corpus.packing.pack_partition import PackJob, pack_partition, shard_prefix
from corpus.partitions import Partition
from model.data.manifest import ShardInfo
from model.tokenizer.encoder import Encoder

WORTH_A_WORKER = 64 * 1024**2
"""Bytes of text for which another process is worth its start."""

LOCK_SECONDS = 60.0
"""Seconds that workers of an interrupted run may take to end; they do so at once."""


def num_workers(num_bytes: int) -> int:
    """Workers for so many bytes of text: one for each core, fewer for little text."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, num_bytes // WORTH_A_WORKER))


def pack_partitions(
    job: PackJob,
    encoder: Encoder,
    partitions: Sequence[Partition],
    workers: int,
    scratch: Path,
    report: Callable[[int], None],
) -> list[ShardInfo]:
    """Pack partitions and return all their shards.

    Args:
        encoder: for this process, where it works alone.
        workers: processes; 1: this one.
        scratch: an existing folder for job files, logs and the lock.
        report: called a few times a second with the number of bytes that all workers have done.

    Raises:
        DataError, TokenMismatchError: from the first worker that fails.
        StageError: a worker was killed, or an earlier run's workers do not end.
    """
    # The largest first, lest one of them be all that is left to do at the end.
    order = sorted(partitions, key=lambda partition: (-partition.size, shard_prefix(partition)))
    workers = min(workers, len(order))
    done: dict[str, int] = {}

    def add(partition: Partition, at: int) -> None:
        done[shard_prefix(partition)] = at
        report(sum(done.values()))

    with _locked(scratch / "lock") as lock:
        if workers <= 1:
            found = [pack_partition(job, encoder, p, partial(add, p)) for p in order]
            return [shard for shards in found for shard in shards]
        return _Workers(job, order, scratch, lock, add).run(workers)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the lock for writing shards; workers inherit its descriptor, and thus the lock."""
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


def _failure(worker: Child, partition: Partition) -> SteelError:
    """Error of a worker that ended before its partition was packed."""
    name = f"the worker process that packed {display(partition.path)}"
    status = worker.process.wait()
    if status == -signal.SIGKILL:
        return StageError(
            f"{name} was killed, most likely because memory ran out. What is finished is kept: "
            "run again with fewer pack.workers (each needs about 0.4 GB, and some eight times the "
            "longest line)"
        )
    if status < 0:
        return StageError(
            f"{name} was ended by {signal.Signals(-status).name}. What is finished is kept: run "
            "again; if it happens again, with pack.encoder: transformers"
        )
    return worker.failure(name)


class _Workers:
    """Processes, and a thread for each that sends it partitions and receives its messages."""

    def __init__(
        self,
        job: PackJob,
        partitions: Sequence[Partition],
        scratch: Path,
        lock: int,
        add: Callable[[Partition, int], None],
    ) -> None:
        self.job, self.scratch, self.lock, self.add = job, scratch, lock, add
        self.waiting: queue.SimpleQueue[Partition] = queue.SimpleQueue()
        for partition in partitions:
            self.waiting.put(partition)
        self.num_left = len(partitions)
        self.messages: queue.SimpleQueue[tuple[Child, Partition, dict[str, Any]]] = (
            queue.SimpleQueue()
        )

    def run(self, workers: int) -> list[ShardInfo]:
        shards: list[ShardInfo] = []
        with contextlib.ExitStack() as stack:
            for number in range(workers):
                worker = self._start(self.scratch / f"worker-{number}.json")
                stack.callback(_end, worker)
                threading.Thread(target=self._feed, args=(worker,), daemon=True).start()
            while self.num_left:
                try:
                    # With a timeout: a cancellation of the run is noticed between two of these.
                    worker, partition, message = self.messages.get(timeout=0.5)
                except queue.Empty:
                    continue
                if "at" in message:
                    self.add(partition, message["at"])
                elif "shards" in message:
                    shards += [ShardInfo(**shard) for shard in message["shards"]]
                    self.num_left -= 1
                else:
                    raise _failure(worker, partition)
        return shards

    def _start(self, job: Path) -> Child:
        write_json(job, asdict(self.job))
        return Child(
            python("corpus.packing", job),
            job,
            # A core for each worker: threads inside of workers would get into each other's way.
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
            grace=0,  # what it has not finished is begun again
            pass_fds=[self.lock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _feed(self, worker: Child) -> None:
        """Give a worker one partition after the other; an empty message means that it ended."""
        stdin, stdout = worker.process.stdin, worker.process.stdout
        assert stdin and stdout
        while True:
            try:
                partition = self.waiting.get_nowait()
            except queue.Empty:
                return
            message: dict[str, Any] = {}
            # An error: its end of a pipe is closed, or ours by `run`.
            with contextlib.suppress(OSError, ValueError):
                stdin.write(json.dumps(asdict(partition)).encode() + b"\n")
                stdin.flush()
                while "shards" not in message and (line := stdout.readline()):
                    message = json.loads(line)
                    self.messages.put((worker, partition, message))
            if "shards" not in message:
                self.messages.put((worker, partition, {}))
                return


def _end(worker: Child) -> None:
    """Stop a worker, wherever it is."""
    worker.stop()
    for pipe in (worker.process.stdin, worker.process.stdout):
        assert pipe
        with contextlib.suppress(OSError):  # what was not yet sent cannot be
            pipe.close()
