"""From sample numbers to tensors: memory-mapped shards, checked at first use.

    numbers [k] ──order──▶ (shard, start) ──verifier──▶ maps ──copy──▶ input_ids, labels [k, L]
                                                     │
                                                     └─ index ──▶ labels that do not count,
                                                                  position_ids, cu_seqlens

b = micro-batch, k = samples asked for, L = sequence length. Ids are int32 on the host: half the
bytes to copy and to send; a device widens them faster. A shard of uint32 is mapped as int32, so
that a block is one copy into each of the two tensors that a forward pass takes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from model.data.boundaries import boundaries
from model.data.epoch_index import Blocks
from model.data.order import SampleOrder
from model.data.permutation import Ints
from model.data.shard_verifier import ShardVerifier
from model.data.shards import map_starts, map_tokens

IGNORED = -100
"""Label of a token that does not count: the first of a document, which nothing predicts."""

MAX_OPEN_SHARDS = 16_384
"""Beyond it the shard opened first is closed. A map takes no file descriptor, but Linux allows a
process about 65,000 maps by default; a shard has two."""


class Sample(TypedDict):
    """One block."""

    tokens: torch.Tensor
    """int64 [L + 1]"""
    source: int
    """Index into `SampleOrder.sources`."""


class MicroBatch(TypedDict):
    """Inputs of one forward pass. All tensors are contiguous and lie on the host."""

    input_ids: torch.Tensor
    """int32 [b, L]"""
    labels: torch.Tensor
    """int32 [b, L], already shifted: labels[i, t] follows input_ids[i, t]. IGNORED where that is
    the first token of a document: what comes before belongs to an unrelated one."""
    source: torch.Tensor
    """int64 [b], index into `SampleOrder.sources`; or [b, L], where rows pack several sources."""
    samples: torch.Tensor
    """int64 [b], global sample numbers; or [b, L], where rows pack several."""
    position_ids: NotRequired[torch.Tensor]
    """int32 [b, L], 0 at each row's start and at each document's; where documents are separated."""
    cu_seqlens: NotRequired[torch.Tensor]
    """int32 [sequences + 1], where each begins in the b * L flattened tokens, and last b * L; a
    row's start is always among them."""
    max_seqlen: NotRequired[int]
    """Length of the longest sequence, in tokens."""
    target_places: NotRequired[torch.Tensor]
    """int64 [targets], places among the b * L tokens whose label counts; where most do not."""


@dataclass(frozen=True)
class _Shard:
    """The two files of a shard, mapped read-only."""

    tokens: npt.NDArray[Any]
    """int32 or uint16 [num_tokens]"""
    starts: Ints
    """int64 [num_documents]"""


@dataclass(frozen=True)
class _Opened:
    """Shards that a process has checked and mapped, by index into `SampleOrder.shards`."""

    pid: int
    shards: dict[int, _Shard] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class PackedDataset(Dataset[Sample]):
    """The samples of an order, by number.

    A shard's files are compared with the manifest (MD5) before the first token of it is returned;
    `verifier` says how. Threads may share a dataset. It may be forked, or pickled to other
    processes: maps are opened anew there.

    Args:
        folder: where the shards of the order's first manifest lie. Appended shards lie where their
            own manifest was read.
        order: of the samples.
        split: "train", or "validation" (blocks that no training sample ever shows).
        verifier: compares shards; one of this dataset's own if absent.

    Raises:
        DataError: on access: a shard is missing, truncated or holds other content; names it.
    """

    def __init__(
        self,
        folder: Path,
        order: SampleOrder,
        split: Literal["train", "validation"] = "train",
        *,
        verifier: ShardVerifier | None = None,
    ) -> None:
        self.folder = folder
        self.order = order
        self.split = split
        self.verifier = verifier or ShardVerifier()
        self._opened = _Opened(os.getpid())

    def __len__(self) -> int:
        if self.split == "validation":
            return self.order.num_validation_samples
        return self.order.num_samples

    def __getitem__(self, index: int) -> Sample:
        blocks = self.locate([index])
        [shard], _ = self._shards(blocks.shard)
        start = int(blocks.start[0])
        tokens = shard.tokens[start : start + self.order.sequence_length + 1].astype(np.int64)
        return Sample(tokens=torch.from_numpy(tokens), source=int(blocks.source[0]))

    def locate(self, samples: npt.ArrayLike) -> Blocks:
        """Places of sample numbers [k] of this split. Raises IndexError outside of it."""
        return self.order.locate_many(samples, validation=self.split == "validation")

    def batch(self, samples: npt.ArrayLike, *, separate_documents: bool = False) -> MicroBatch:
        """One micro-batch of sample numbers [k]. Raises IndexError outside of the split."""
        numbers = np.asarray(samples, dtype=np.int64)
        (batch,) = self.batches(
            numbers,
            self.locate(numbers),
            micro_batch_size=numbers.size,
            separate_documents=separate_documents,
        )
        return batch

    def batches(
        self,
        numbers: Ints,
        blocks: Blocks,
        *,
        micro_batch_size: int,
        separate_documents: bool = False,
        pin_memory: bool = False,
    ) -> list[MicroBatch]:
        """Samples that were located already, as k / b micro-batches of b = `micro_batch_size`.

        Args:
            numbers, blocks: sample numbers [k] and where they lie.
            separate_documents: add position_ids, cu_seqlens and max_seqlen.
            pin_memory: page-locked tensors, which a GPU copies without the host waiting.
        """
        num_rows, length = numbers.size, self.order.sequence_length
        input_ids = torch.empty(num_rows, length, dtype=torch.int32, pin_memory=pin_memory)
        labels = torch.empty(num_rows, length, dtype=torch.int32, pin_memory=pin_memory)
        inputs_out, labels_out = input_ids.numpy(), labels.numpy()
        shards, which = self._shards(blocks.shard)
        places = zip(which.tolist(), blocks.start.tolist(), strict=True)
        for row, (number, start) in enumerate(places):
            tokens = shards[number].tokens
            # The second copy reads what the first has brought into the cache.
            inputs_out[row] = tokens[start : start + length]
            labels_out[row] = tokens[start + 1 : start + 1 + length]
        documents = boundaries([shard.starts for shard in shards], which, blocks.start, length)
        labels_out.reshape(-1)[documents.first_labels] = IGNORED

        def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
            # All that goes to the device, however small: a copy from other memory waits for it.
            made = torch.from_numpy(array)
            return made.pin_memory() if pin_memory else made

        source, samples = tensor(blocks.source), torch.from_numpy(numbers)
        slices = [slice(i, i + micro_batch_size) for i in range(0, num_rows, micro_batch_size)]
        batches = [
            MicroBatch(
                input_ids=input_ids[rows],
                labels=labels[rows],
                source=source[rows],
                samples=samples[rows],
            )
            for rows in slices
        ]
        if separate_documents:
            positions = tensor(documents.positions())
            for rows, batch in zip(slices, batches, strict=True):
                offsets = documents.of_rows(rows.start, rows.stop)
                batch["position_ids"] = positions[rows]
                batch["cu_seqlens"] = tensor(offsets)
                batch["max_seqlen"] = int(np.diff(offsets).max())
        return batches

    def expect(self, blocks: Blocks) -> None:
        """Check the shards of these blocks in the background, in this order."""
        opened = self._here().shards
        numbers, first = np.unique(blocks.shard, return_index=True)
        for index in numbers[np.argsort(first)].tolist():
            if index not in opened:
                self.verifier.verify_ahead(self._folder(index), self.order.shards[index])

    def close(self) -> None:
        """Stop checking ahead. The dataset stays usable."""
        self.verifier.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._opened = _Opened(os.getpid())

    def _shards(self, numbers: Ints) -> tuple[list[_Shard], Ints]:
        """The distinct shards of rows [k] and which of them each row has, [k].

        Those not opened yet are checked first, all at once.
        """
        distinct, which = np.unique(numbers, return_inverse=True)
        here = self._here()
        found = {index: here.shards.get(index) for index in distinct.tolist()}
        if missing := [index for index, shard in found.items() if shard is None]:
            self.verifier.verify(
                [(self._folder(index), self.order.shards[index]) for index in missing]
            )
            opened = {index: self._map(index) for index in missing}
            with here.lock:
                here.shards.update(opened)
                while len(here.shards) > max(MAX_OPEN_SHARDS, len(opened)):
                    here.shards.pop(next(iter(here.shards)))
            found |= opened
        return [shard for shard in found.values() if shard is not None], which

    def _map(self, index: int) -> _Shard:
        folder, info = self._folder(index), self.order.shards[index]
        return _Shard(tokens=map_tokens(folder, info), starts=map_starts(folder, info))

    def _folder(self, index: int) -> Path:
        manifest = self.order.manifests[index]
        folder = self.folder if manifest is self.order.manifest else manifest.folder
        assert folder is not None, "an appended manifest was read from somewhere"
        return folder

    def _here(self) -> _Opened:
        """This process's maps: a forked child must not use a lock that a thread held then."""
        if self._opened.pid != os.getpid():
            self._opened = _Opened(os.getpid())
        return self._opened
