"""Parts packed by worker processes, the largest first.

    parts ──one at a time──▶ python -m corpus.packing  ──▶ progress, then the part's shards
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
from corpus.packing.pack_part import PackJob, pack_part
from corpus.packing.parts import Part
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


def pack_parts(
    job: PackJob,
    encoder: Encoder,
    parts: Sequence[Part],
    workers: int,
    scratch: Path,
    tick: Callable[[int], None],
) -> list[ShardInfo]:
    """The shards of all parts.

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
    order = sorted(parts, key=lambda part: (-part.size, part.name))
    done: dict[str, int] = {}

    def notice(part: Part, at: int) -> None:
        done[part.name] = at
        tick(sum(done.values()))

    with _writing(scratch / "lock") as lock:
        if min(workers, len(order)) <= 1:
            found = [pack_part(job, encoder, part, partial(notice, part)) for part in order]
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

    part: Part
    status: int
    log: Path

    def error(self) -> StageError:
        if self.status == -signal.SIGKILL:
            return StageError(
                f"the worker process that packed {self.part.shown} was killed, most likely because "
                "memory ran out. What is finished is kept: run again with fewer pack.workers "
                "(each needs about 0.4 GB, and some eight times the longest line)"
            )
        if self.status < 0:
            return StageError(
                f"the worker process that packed {self.part.shown} was ended by "
                f"{signal.Signals(-self.status).name}. What is finished is kept: run again; if it "
                "happens again, with pack.encoder: transformers"
            )
        tail = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL:])
        return StageError(
            f"the worker process that packed {self.part.shown} ended with status {self.status} "
            f"(log {display(self.log)}):\n{tail}"
        )


class _Workers:
    """Processes, and a thread for each that hands it parts and listens."""

    def __init__(
        self,
        job: PackJob,
        parts: Sequence[Part],
        scratch: Path,
        lock: int,
        notice: Callable[[Part, int], None],
    ) -> None:
        self.lock, self.scratch, self.notice = lock, scratch, notice
        self.first = json.dumps(asdict(job)).encode() + b"\n"
        self.waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
        for part in parts:
            self.waiting.put(part)
        self.num_parts = len(parts)
        self.said: queue.SimpleQueue[tuple[Part, dict[str, Any]] | _Death] = queue.SimpleQueue()

    def run(self, workers: int) -> list[ShardInfo]:
        shards: list[ShardInfo] = []
        with contextlib.ExitStack() as stack:
            for number in range(workers):
                log = self.scratch / f"worker-{number}.log"
                child = self._start(log)
                stack.callback(_end, child)
                threading.Thread(target=self._feed, args=(child, log), daemon=True).start()
            left = self.num_parts
            while left:
                try:
                    # Not without an end: whoever cancels the run is heard between two of these.
                    event = self.said.get(timeout=0.5)
                except queue.Empty:
                    continue
                if isinstance(event, _Death):
                    raise event.error()
                part, message = event
                if "at" in message:
                    self.notice(part, message["at"])
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
                part = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                child.stdin.write(to_send + json.dumps(asdict(part)).encode() + b"\n")
                child.stdin.flush()
                to_send = b""
                message: dict[str, Any] = {}
                while "shards" not in message and (line := child.stdout.readline()):
                    message = json.loads(line)
                    self.said.put((part, message))
            except (OSError, ValueError):  # its end of the pipe is closed, or ours by `run`
                message = {}
            if "shards" not in message:
                self.said.put(_Death(part=part, status=child.wait(), log=log))
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
