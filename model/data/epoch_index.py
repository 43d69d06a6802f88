"""Index of everything that one manifest gives to train on: entries, numbered 0 … n - 1.

    entries of a manifest │ source a: epoch 0, epoch 1, part of epoch 2 │ source b: epoch 0 │ …
    entry ──▶ (source, epoch, number) ──▶ block ──▶ (shard, start)

An *entry* is one (source, epoch, block): a source with weight w (epochs) has floor(w) entries for
each of its blocks and one more for a random part of them. A *block* is sequence_length + 1
consecutive tokens of a shard at stride sequence_length: the last token of one is the first of the
next, so every token but a shard's first is a label once an epoch (and a target unless a document
begins with it). Fewer than sequence_length tokens at the end of a shard are left over.

Shards of held-out documents have no entries. Their blocks are the validation samples: they depend
on the data and the sequence length alone, so neither seed nor weights nor appends move them, and
validation losses stay comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from model.data.held_out import Split
from model.data.manifest import PackedManifest
from model.data.permutation import Ints, Permutation

Rows = npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice


class Blocks(NamedTuple):
    """Places of many samples; every array is int64 [k]."""

    source: Ints
    """Index into `SampleOrder.sources`."""
    epoch: Ints
    """Number of times that the source was gone through before."""
    shard: Ints
    """Index into `SampleOrder.shards`."""
    start: Ints
    """First of a sample's sequence_length + 1 tokens, from the beginning of the shard."""

    def take(self, rows: Rows) -> Blocks:
        """Places of some of them."""
        return Blocks(*(column[rows] for column in self))

    def put(self, rows: Rows, found: Blocks) -> None:
        """Overwrite the places of some of them."""
        for column, values in zip(self, found, strict=True):
            column[rows] = values


class SourceBlocks:
    """Blocks of the shards of one source and split within one manifest, numbered 0 … n - 1."""

    def __init__(
        self,
        manifest: PackedManifest,
        name: str,
        split: Split,
        *,
        first_shard: int,
        source_id: int,
        sequence_length: int,
    ) -> None:
        self.source_id = source_id
        self.sequence_length = sequence_length
        mine = [
            (first_shard + number, shard.num_tokens)
            for number, shard in enumerate(manifest.shards)
            if shard.source == name and shard.split == split
        ]
        self.shards: Ints = np.asarray([number for number, _ in mine], dtype=np.int64)
        self.starts: Ints = starts_of([(size - 1) // sequence_length for _, size in mine])
        self.num_entries = int(self.starts[-1])
        self.num_tokens = sum(size for _, size in mine)

    def locate(self, numbers: Ints, epoch: Ints | None = None) -> Blocks:
        """Places of blocks [k], in an epoch each (the first)."""
        at = np.searchsorted(self.starts, numbers, side="right") - 1
        return Blocks(
            source=np.full_like(numbers, self.source_id),
            epoch=np.zeros_like(numbers) if epoch is None else epoch,
            shard=self.shards[at],
            start=(numbers - self.starts[at]) * self.sequence_length,
        )

    def find(self, blocks: Blocks) -> Ints:
        """Numbers [k] of blocks of these shards; -1 for what is no block."""
        at = np.searchsorted(self.shards, blocks.shard)
        number, rest = np.divmod(blocks.start, self.sequence_length)
        number += self.starts[at]
        inside = (rest == 0) & (blocks.start >= 0) & (number < self.starts[at + 1])
        return np.where(inside, number, -1)


class SourceEpochs:
    """Entries of one source within one manifest."""

    def __init__(self, blocks: SourceBlocks, *, name: str, weight: float, seed: int) -> None:
        self.blocks = blocks
        self.source_id = blocks.source_id
        self.shards = blocks.shards
        self.weight = Fraction(repr(float(weight)))
        self.whole_epochs = math.floor(self.weight)
        share = (self.weight - self.whole_epochs) * blocks.num_entries
        self.part = math.floor(share + Fraction(1, 2))
        self.num_entries = self.whole_epochs * blocks.num_entries + self.part
        self._fraction = Permutation(blocks.num_entries, "fraction", seed, name)

    def locate(self, entries: Ints) -> Blocks:
        """Blocks of entries [k]."""
        epoch, number = np.divmod(entries, max(self.blocks.num_entries, 1))
        partial = epoch == self.whole_epochs
        if partial.any():
            number[partial] = self._fraction(number[partial])
        return self.blocks.locate(number, epoch)

    def find(self, blocks: Blocks) -> Ints:
        """The inverse of `locate` for blocks of this source's shards; -1 for what has no entry."""
        number = self.blocks.find(blocks)
        entries = np.full_like(number, -1)
        inside = np.flatnonzero(number >= 0)
        number, epoch = number[inside], blocks.epoch[inside]
        whole = (epoch >= 0) & (epoch < self.whole_epochs)
        entries[inside[whole]] = epoch[whole] * self.blocks.num_entries + number[whole]
        partial = epoch == self.whole_epochs
        place = self._fraction.inverse(number[partial])
        taken = place < self.part
        first = self.whole_epochs * self.blocks.num_entries
        entries[inside[partial][taken]] = first + place[taken]
        return entries


Part = TypeVar("Part", SourceBlocks, SourceEpochs)


class EpochIndex(Generic[Part]):
    """Entries of one manifest, numbered source by source: to train on, or held-out blocks."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts: Sequence[Part] = parts
        self.starts: Ints = starts_of([part.num_entries for part in parts])

    @property
    def num_entries(self) -> int:
        """Entries of all sources."""
        return int(self.starts[-1])

    def locate(self, entries: Ints) -> Blocks:
        """Blocks of entries [k]."""
        which = np.searchsorted(self.starts, entries, side="right") - 1
        out = empty_blocks(entries.size)
        for number in np.flatnonzero(np.bincount(which)).tolist():
            mask = which == number
            out.put(mask, self.parts[number].locate(entries[mask] - self.starts[number]))
        return out

    def find(self, blocks: Blocks) -> Ints:
        """The inverse of `locate` for blocks of this manifest's shards; -1 for no entry."""
        out = np.full_like(blocks.start, -1)
        for number, part in enumerate(self.parts):
            at = np.flatnonzero(np.isin(blocks.shard, part.shards))
            entries = part.find(blocks.take(at))
            out[at] = np.where(entries < 0, -1, entries + self.starts[number])
        return out


def starts_of(sizes: list[int]) -> Ints:
    """Start of each of some consecutive runs, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def empty_blocks(size: int) -> Blocks:
    """Places that are yet to be filled in."""
    return Blocks(*(np.empty(size, dtype=np.int64) for _ in range(4)))
