"""The data of a fine-tuning on this rank: `StepData` of samples that lie encoded.

    samples ──held_out──▶ trained on ──StepOrder──▶ step ──lay_out──▶ this rank's micro-batches
                     └──▶ validated with, all at once

N = samples that are trained on, G = samples in a step, W = ranks.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from common.errors import ConfigError, DataError, shown
from common.reading.files import parse_json
from model.data import MicroBatch
from model.data.loader import ReadAhead
from model.data.permutation import Ints
from model.train.finetune.batches import (
    Document,
    StepOrder,
    aligned,
    lay_out,
    packed_batch,
    padded_batch,
)
from model.train.run.folder import DATA_STATE_FILE

PREFETCH = 2
"""Steps that lie ready."""


class Samples(Protocol):
    """Conversations or pairs that a fine-tuning is made of, by number."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the sets."""
        ...

    @property
    def name(self) -> Ints:
        """Place in `names` of each sample's set, [N]."""
        ...

    @property
    def lengths(self) -> Ints:
        """Tokens of each, [N]."""
        ...

    @property
    def targets(self) -> Ints:
        """Terms of a step's mean that each sample gives, [N]: its targets, or 1 for a pair."""
        ...

    @property
    def digests(self) -> npt.NDArray[np.uint64]:
        """Digest of each one's text, [N]."""
        ...


Documents = Callable[[int], Sequence[Document]]
"""The documents of a sample by its number: one of a conversation, two of a pair."""


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Division of samples into rows."""

    packed: bool
    """Several samples in a row, as documents of their own."""
    micro_batch_size: int
    """Samples of a micro-batch where they are not packed."""
    row_tokens: int
    """Most tokens of a packed row."""
    padding_id: int
    """Token at places that hold none."""
    separate_padding: bool = False
    """Padding behind a sample is a document of its own."""

    def divide(self, lengths: Ints, num_ranks: int) -> list[list[list[int]]]:
        """Samples of these lengths as [micro-batch][rank][sample]."""
        return lay_out(
            lengths,
            num_ranks=num_ranks,
            micro_batch_size=self.micro_batch_size,
            row_tokens=self.row_tokens,
            packed=self.packed,
        )

    def batch(self, documents: Sequence[Document]) -> MicroBatch:
        """Rows of these documents."""
        if self.packed:
            return packed_batch(documents, padding_id=self.padding_id)
        return padded_batch(documents, padding_id=self.padding_id, separate=self.separate_padding)

    def computed_tokens(self, lengths: Ints) -> int:
        """Tokens of the rows of a micro-batch of samples of these lengths, padding included."""
        if self.packed:
            return aligned(max(1, int(lengths.sum())))
        return max(1, len(lengths)) * aligned(max(1, int(lengths.max(initial=0))))


@dataclass(kw_only=True, eq=False)
class FinetuneData:
    """Steps of a fine-tuning on this rank, read ahead by a thread."""

    samples: Samples
    documents: Documents
    annotate: Callable[[MicroBatch, Sequence[int]], MicroBatch] = lambda rows, numbers: rows
    """Adds to rows with the documents of some samples what the objective needs."""
    numbers: Ints
    """Numbers of the samples that are trained on, [N]."""
    order: StepOrder
    """Order of their places in `numbers`."""
    layout: RowLayout
    rank: int
    world_size: int
    num_batches: int
    """Steps of the whole run."""
    device: torch.device
    _worker: ReadAhead | None = field(default=None, repr=False)
    _digest: str = field(default="", repr=False)
    _seen: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict, repr=False)

    @property
    def sources(self) -> Sequence[str]:
        """Names of the sets."""
        return self.samples.names

    def of_step(self, batch: int) -> Ints:
        """Numbers of the samples of a step, in order."""
        return self.numbers[self.order.samples(batch)]

    def step(self, batch: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step."""
        worker = self._worker
        if worker is None or worker.pid != os.getpid() or worker.next_step != batch:
            self.close()
            worker = self._worker = ReadAhead(
                self._make, first=batch, end=self.num_batches, depth=PREFETCH
            )
        try:
            return worker.take()
        except BaseException:
            self.close()
            raise

    def micro_batches(self, numbers: Ints) -> Iterator[MicroBatch]:
        """This rank's micro-batches of samples, made one by one; equally many on each rank."""
        for part in self.layout.divide(self.samples.lengths[numbers], self.world_size):
            yield self._batch(numbers[part[self.rank]].tolist())

    def num_tokens(self, batch: int) -> int:
        """Targets of a step, per rank: dividing by them makes a mean of a sum over all."""
        targets = int(self.samples.targets[self.of_step(batch)].sum())
        return max(1, targets // self.world_size)

    def num_consumed(self, batch: int) -> int:
        """Samples of all steps before this one."""
        return self.order.num_before(batch)

    def position(self, batch: int) -> dict[str, float]:
        """Samples, tokens and targets of all steps before this one, and passes over the data."""
        epochs, place = divmod(batch, self.order.steps_in_epoch)
        tokens, targets = self._seen_in(epochs)[place] + epochs * self._seen_in(0)[-1]
        consumed = self.num_consumed(batch)
        return {
            "data/samples": float(consumed),
            "data/tokens": float(tokens),
            "data/targets": float(targets),
            "train/epoch": consumed / self.order.num_samples,
        }

    def state(self, batch: int) -> str:
        """Position in these very samples, in this very order."""
        about = {"samples_consumed": self.num_consumed(batch), "order": self.digest()}
        return json.dumps(about, indent=1)

    def check_state(self, state: str, batch: int) -> None:
        """Raise DataError where a checkpoint was trained on other samples or in another order."""
        saved = parse_json(state, f"a checkpoint's {DATA_STATE_FILE}")
        if not isinstance(saved, dict) or not {"order", "samples_consumed"} <= saved.keys():
            raise DataError(f"a checkpoint's {DATA_STATE_FILE} cannot be read: {shown(saved)}")
        if saved["order"] != self.digest() or saved["samples_consumed"] != self.num_consumed(batch):
            raise ConfigError(
                "the checkpoint was trained on other samples, in another order, or with another "
                "global_batch_size: set these back, or remove the run's folder to begin anew"
            )

    def digest(self) -> str:
        """Hash of what is trained on and when."""
        if not self._digest:
            found = hashlib.blake2b(digest_size=16)
            found.update(f"{self.order.seed}/{self.order.global_batch_size}/".encode())
            for values in (self.samples.digests, self.samples.lengths):
                found.update(np.ascontiguousarray(values[self.numbers]).tobytes())
            found.update(b"grouped" if self.order.lengths is not None else b"")
            self._digest = found.hexdigest()
        return self._digest

    def close(self) -> None:
        """End the thread; the next step starts another."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def share_of_real_tokens(self) -> float:
        """Tokens of the first epoch's rows that are no padding; 0 to 1, on all ranks together."""
        real = computed = 0
        for step in range(self.order.steps_in_epoch):
            lengths = self.samples.lengths[self.of_step(step)]
            real += int(lengths.sum())
            for ranks in self.layout.divide(lengths, self.world_size):
                computed += sum(self.layout.computed_tokens(lengths[part]) for part in ranks)
        return real / max(1, computed)

    def _make(self, batch: int) -> list[MicroBatch]:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        return list(self.micro_batches(self.of_step(batch)))

    def _batch(self, numbers: Sequence[int]) -> MicroBatch:
        rows = self.layout.batch([d for number in numbers for d in self.documents(number)])
        found = self.annotate(rows, numbers)
        if self.device.type == "cuda":
            pinned: Any = {
                k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in found.items()
            }
            return pinned  # type: ignore[no-any-return]
        return found

    def _seen_in(self, epoch: int) -> npt.NDArray[np.int64]:
        """(tokens, targets) of an epoch after each number of its steps, [steps + 1, 2]."""
        if epoch not in self._seen:
            first = self._seen.get(0)
            self._seen.clear()
            if first is not None and epoch:
                self._seen[0] = first
            order = self.numbers[self.order.epoch(epoch)]
            values = np.stack([self.samples.lengths[order], self.samples.targets[order]], axis=1)
            starts = np.arange(0, len(order), self.order.global_batch_size)
            sums = np.add.reduceat(values, starts, axis=0).cumsum(axis=0)
            self._seen[epoch] = np.concatenate([np.zeros((1, 2), np.int64), sums])
        return self._seen[epoch]
