"""Each rank's share of every training step, read ahead by a thread.

    StepLoader.step(n): samples [n*G, (n+1)*G) ─┬─ rank 0: [n*G, n*G + G/W) ─▶ micro-batches of b
                                                ├─ rank 1: …
                                                └─ rank W-1
           ▲
           └── queue of `prefetch` steps ◀── thread: locate a window of steps ─▶ check ─▶ copy

G = global batch, W = world size, b = micro-batch, L = sequence length. Ranks only split a step, so
what is trained on in step n does not depend on W or b, and both may change between two steps.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.errors import ConfigError, DataError
from model.data.dataset import MicroBatch, PackedDataset
from model.data.epoch_index import Blocks
from model.data.order import rank_samples

PREFETCH = 2
"""Steps that lie ready: one to hide reading, and one more for an uneven pace."""

WINDOW_SAMPLES = 4096
"""Samples located at once: one look-up of 4096 takes as long as three of 64."""


class StepLoader:
    """One rank's share of each training step.

    The step after the one taken is read in the background. Taking another one than that is
    allowed and costs what was read. May be forked and pickled; threads belong to the process that
    called `step`.

    Args:
        dataset: of the training or the validation split.
        global_batch_size: samples a step over all ranks, G.
        micro_batch_size: samples a forward pass, b; G must be a multiple of world_size * b.
        rank: this process, in [0, world_size).
        world_size: number of processes, W.
        separate_documents: micro-batches also say where documents begin.
        prefetch: steps read ahead by a thread; 0 reads in `step`.
        pin_memory: page-locked tensors; ignored without a GPU.

    Raises:
        ConfigError: G is not a multiple of W * b.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        separate_documents: bool = False,
        prefetch: int = PREFETCH,
        pin_memory: bool = False,
    ) -> None:
        assert 0 <= rank < world_size and prefetch >= 0
        if min(global_batch_size, micro_batch_size) < 1 or global_batch_size % (
            world_size * micro_batch_size
        ):
            raise ConfigError(
                f"global_batch_size {global_batch_size} must be a positive multiple of world_size "
                f"{world_size} x micro_batch_size {micro_batch_size}: every rank takes the same "
                "number of samples in every step"
            )
        self.dataset = dataset
        self.global_batch_size = global_batch_size
        self.prefetch = prefetch
        self._reader = _Reader(
            dataset=dataset,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
            separate_documents=separate_documents,
            device=torch.cuda.current_device()
            if pin_memory and torch.cuda.is_available()
            else None,
        )
        self._worker: ReadAhead | None = None
        self._forgotten: weakref.finalize[..., StepLoader] | None = None

    @property
    def num_steps(self) -> int:
        """Full steps in the split; a remainder smaller than a step is not trained on."""
        return len(self.dataset) // self.global_batch_size

    def samples(self, step: int) -> npt.NDArray[np.int64]:
        """This rank's sample numbers in a step, int64 [G / W]."""
        return self._reader.samples(np.asarray([step])).ravel()

    def step(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step, G / (W * b) of them.

        Raises DataError where the data do not reach that far; or see PackedDataset.
        """
        if not 0 <= step < self.num_steps:
            raise DataError(
                f"step {step} asked for, but {len(self.dataset)} samples make {self.num_steps} "
                f"steps of {self.global_batch_size}: raise the sources' weights (epochs), append "
                "data, or train fewer steps"
            )
        if not self.prefetch:
            return self._reader.read(step)
        worker = self._worker
        if worker is None or worker.pid != os.getpid() or worker.next_step != step:
            self._stop()
            worker = self._worker = ReadAhead(
                self._reader.read, first=step, end=self.num_steps, depth=self.prefetch
            )
            # The thread knows the reader, not the loader: a forgotten loader ends it.
            self._forgotten = weakref.finalize(self, worker.stop)
        try:
            return worker.take()
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """End the thread. The loader stays usable: the next `step` starts another."""
        self._stop()
        self.dataset.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_worker": None, "_forgotten": None}

    def _stop(self) -> None:
        if self._worker is not None and self._forgotten is not None:
            self._forgotten.detach()
            self._worker.stop()
        self._worker = None


@dataclass(kw_only=True)
class _Reader:
    """Reads any step. Used by one thread at a time."""

    dataset: PackedDataset
    global_batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int
    separate_documents: bool
    device: int | None
    """GPU whose context pins memory; None: memory is not pinned."""
    _window: tuple[int, Blocks] | None = field(default=None, repr=False)
    """First step of the steps located last, and where their samples lie."""

    def samples(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return rank_samples(
            steps,
            global_batch_size=self.global_batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )

    def read(self, step: int) -> list[MicroBatch]:
        if self.device is not None:
            # Per thread; otherwise every rank would open a context on the first GPU.
            torch.cuda.set_device(self.device)
        return self.dataset.batches(
            self.samples(np.asarray([step])).ravel(),
            self._locate(step),
            micro_batch_size=self.micro_batch_size,
            separate_documents=self.separate_documents,
            pin_memory=self.device is not None,
        )

    def _locate(self, step: int) -> Blocks:
        share = self.global_batch_size // self.world_size
        size = max(1, WINDOW_SAMPLES // share)
        window = self._window
        if window is None or not 0 <= step - window[0] < window[1].shard.size // share:
            end = min(step + size, len(self.dataset) // self.global_batch_size)
            blocks = self.dataset.locate(self.samples(np.arange(step, end)).ravel())
            self.dataset.expect(blocks)
            window = self._window = (step, blocks)
        return window[1].take(slice((step - window[0]) * share, (step - window[0] + 1) * share))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_window": None}


class ReadAhead:
    """A thread that makes steps `first`, `first` + 1, … up to `end`, at most `depth` ahead."""

    def __init__(
        self, make: Callable[[int], list[MicroBatch]], *, first: int, end: int, depth: int
    ) -> None:
        self.pid = os.getpid()
        self.next_step = first
        """Step that `take` returns next."""
        self._make = make
        self._end = end
        self._depth = depth
        self._ready: deque[list[MicroBatch] | BaseException] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="step-loader", daemon=True)
        self._thread.start()

    def take(self) -> list[MicroBatch]:
        """The next step, as soon as it is there. Raises what reading it raised."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._ready))
            result = self._ready.popleft()
            self.next_step += 1
            self._changed.notify_all()
        if isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        """End the thread and wait for it; in a forked child there is none."""
        if self.pid != os.getpid():
            return
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():  # the collector runs in any thread
            self._thread.join()

    def _run(self) -> None:
        for step in range(self.next_step, self._end):
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or len(self._ready) < self._depth)
                if self._stopped:
                    return
            try:
                result: list[MicroBatch] | BaseException = self._make(step)
            except BaseException as error:
                result = error
            with self._changed:
                self._ready.append(result)
                self._changed.notify_all()
            if isinstance(result, BaseException):
                return
