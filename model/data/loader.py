"""From sample numbers to tensors: memory-mapped shards, checked at first use.

    StepLoader.step(s): samples [s*G, (s+1)*G) ─┬─ rank 0: [s*G, s*G + G/W) ─▶ micro-batches of b
                                                ├─ rank 1: …
                                                └─ rank W-1

G = global batch, W = world size, b = micro-batch, L = sequence length. Ranks only split a step, so
what is trained on in step s does not depend on W or b, and both may change between two steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from model.data.order import SampleOrder
from model.data.shards import check_tokens, open_tokens
from model.errors import ConfigError, DataError

MAX_OPEN_SHARDS = 256
"""Each open shard holds a file descriptor; the one opened first is closed beyond this number."""


class Sample(TypedDict):
    """One block."""

    tokens: torch.Tensor
    """int64 [L + 1]"""
    source: int
    """Index into `SampleOrder.sources`."""


class MicroBatch(TypedDict):
    """What one forward pass takes."""

    input_ids: torch.Tensor
    """int64 [b, L]"""
    labels: torch.Tensor
    """int64 [b, L], already shifted: labels[i, t] follows input_ids[i, t]."""
    source: torch.Tensor
    """int64 [b], index into `SampleOrder.sources`."""
    samples: torch.Tensor
    """int64 [b], global sample numbers."""


class PackedDataset(Dataset[Sample]):
    """The samples of an order, by number.

    A shard's content is compared with the manifest (MD5) when the first token of it is asked for in
    this process, before that token is returned. May be pickled to other processes: maps are opened
    anew there.

    Args:
        folder: where the shards of the order's first manifest lie. Appended shards lie where their
            own manifest was read.
        order: of the samples.
        split: "train", or "validation" (blocks that no training sample ever shows).

    Raises:
        DataError: on access: a shard is missing, truncated or holds other content; names it.
    """

    def __init__(
        self,
        folder: Path,
        order: SampleOrder,
        split: Literal["train", "validation"] = "train",
    ) -> None:
        self.folder = folder
        self.order = order
        self.split = split
        self._maps: dict[int, npt.NDArray[np.unsignedinteger[Any]]] = {}
        self._checked: set[int] = set()

    def __len__(self) -> int:
        if self.split == "validation":
            return self.order.num_validation_samples
        return self.order.num_samples

    def __getitem__(self, index: int) -> Sample:
        tokens, source = self.fetch([index])
        return Sample(tokens=tokens[0], source=int(source[0]))

    def fetch(self, samples: npt.ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [k, L + 1] and sources int64 [k] of sample numbers [k].

        Raises:
            IndexError: a number is outside of the split.
            DataError: see the class.
        """
        blocks = self.order.locate_many(samples, validation=self.split == "validation")
        length = self.order.sequence_length + 1
        tokens = np.empty((blocks.shard.size, length), dtype=np.int64)
        places = zip(blocks.shard.tolist(), blocks.start.tolist(), strict=True)
        for row, (shard, start) in enumerate(places):
            tokens[row] = self._shard(shard)[start : start + length]
        return torch.from_numpy(tokens), torch.from_numpy(blocks.source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def _shard(self, index: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        tokens = self._maps.get(index)
        if tokens is None:
            manifest, info = self.order.manifests[index], self.order.shards[index]
            folder = self.folder if manifest is self.order.manifest else manifest.folder
            assert folder is not None, "an appended manifest was read from somewhere"
            if index not in self._checked:
                check_tokens(folder, info)
                self._checked.add(index)
            if len(self._maps) >= MAX_OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps)))
            tokens = self._maps[index] = open_tokens(folder, info)
        return tokens


def rank_samples(
    steps: npt.ArrayLike, *, global_batch: int, rank: int, world_size: int
) -> npt.NDArray[np.int64]:
    """Sample numbers of one rank in each of some steps: steps [k] -> int64 [k, G / W].

    Step s has samples [s*G, (s+1)*G); rank r takes the r-th of W equal runs of them.
    """
    share = global_batch // world_size
    first = np.asarray(steps, dtype=np.int64) * global_batch + rank * share
    numbers: npt.NDArray[np.int64] = first[:, None] + np.arange(share, dtype=np.int64)
    return numbers


class StepLoader:
    """One rank's share of each training step.

    Args:
        dataset: of the training or the validation split.
        global_batch: samples a step over all ranks, G.
        micro_batch: samples a forward pass, b; G must be a multiple of world_size * b.
        rank: this process, in [0, world_size).
        world_size: number of processes, W.

    Raises:
        ConfigError: G is not a multiple of W * b.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
    ) -> None:
        assert 0 <= rank < world_size
        if min(global_batch, micro_batch) < 1 or global_batch % (world_size * micro_batch):
            raise ConfigError(
                f"global_batch {global_batch} must be a positive multiple of world_size "
                f"{world_size} x micro_batch {micro_batch}: every rank takes the same number of "
                "samples in every step"
            )
        self.dataset = dataset
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.rank = rank
        self.world_size = world_size

    @property
    def num_steps(self) -> int:
        """Full steps in the split; a remainder smaller than a step is not trained on."""
        return len(self.dataset) // self.global_batch

    def samples(self, step: int) -> npt.NDArray[np.int64]:
        """This rank's sample numbers in a step, int64 [G / W]."""
        return rank_samples(
            [step], global_batch=self.global_batch, rank=self.rank, world_size=self.world_size
        ).ravel()

    def step(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step, G / (W * b) of them.

        Raises:
            DataError: the data do not reach that far; or see PackedDataset.
        """
        if not 0 <= step < self.num_steps:
            raise DataError(
                f"step {step} asked for, but {len(self.dataset)} samples make {self.num_steps} "
                f"steps of {self.global_batch}: raise the sources' weights (epochs), append data, "
                "or train fewer steps"
            )
        numbers = self.samples(step)
        tokens, source = self.dataset.fetch(numbers)
        samples = torch.from_numpy(numbers)
        return [
            MicroBatch(
                input_ids=tokens[i : i + self.micro_batch, :-1].contiguous(),
                labels=tokens[i : i + self.micro_batch, 1:].contiguous(),
                source=source[i : i + self.micro_batch],
                samples=samples[i : i + self.micro_batch],
            )
            for i in range(0, len(numbers), self.micro_batch)
        ]
