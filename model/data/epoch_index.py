"""Index of everything that one manifest gives to train on: entries, numbered 0 … n - 1.

    entries of a manifest │ source a: epoch 0, epoch 1, part of epoch 2 │ source b: epoch 0 │ …
    entry ──▶ (source, epoch, number) ──source's permutation──▶ block ──▶ (shard, start)

An *entry* is one (source, epoch, block): a source with weight w (epochs) has floor(w) entries for
each of its blocks and one more for a random part of them. A *block* is sequence_length + 1
consecutive tokens of a shard at stride sequence_length: the last token of one is the first of the
next, so every token but a shard's first is predicted once an epoch. Fewer than sequence_length
tokens at the end of a shard are left over.

Validation blocks are the first ones of each source's permutation. They depend on the data, the
sequence length and the fraction alone: neither seed nor weights nor appends move them, so
validation losses stay comparable.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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


class SourceEpochs:
    """Entries of one source within one manifest."""

    def __init__(
        self,
        manifest: PackedManifest,
        name: str,
        *,
        first_shard: int,
        source_id: int,
        sequence_length: int,
        weight: float,
        validation_fraction: float,
        seed: int,
    ) -> None:
        self.source_id = source_id
        self.sequence_length = sequence_length
        numbers = [i for i, shard in enumerate(manifest.shards) if shard.source == name]
        blocks = [(manifest.shards[i].num_tokens - 1) // sequence_length for i in numbers]
        self.shards: Ints = np.asarray([first_shard + i for i in numbers], dtype=np.int64)
        self.block_starts: Ints = starts_of(blocks)
        self.num_blocks = int(self.block_starts[-1])
        self.num_validation = _held_out(self.num_blocks, validation_fraction)
        self.num_training = self.num_blocks - self.num_validation
        self.num_tokens = sum(manifest.shards[i].num_tokens for i in numbers)
        exact = Fraction(repr(float(weight)))
        self.weight = exact
        whole = math.floor(exact)
        self.part = math.floor((exact - whole) * self.num_training + Fraction(1, 2))
        self.whole_epochs = whole
        self.num_entries = whole * self.num_training + self.part
        # Which blocks are held out must not move with the seed; which ones a fraction takes should.
        self._split = Permutation(self.num_blocks, "split", name)
        self._fraction = Permutation(self.num_training, "fraction", seed, name)

    def locate(self, entries: Ints) -> Blocks:
        """Blocks of entries [k]."""
        epoch, number = np.divmod(entries, max(self.num_training, 1))
        partial = epoch == self.whole_epochs
        if partial.any():
            number[partial] = self._fraction(number[partial])
        return self._find(self._split(self.num_validation + number), epoch)

    def locate_validation(self, numbers: Ints) -> Blocks:
        """Blocks of validation samples [k]."""
        return self._find(self._split(numbers), np.zeros_like(numbers))

    def find(self, blocks: Blocks) -> Ints:
        """The inverse of `locate` for blocks of this source's shards; -1 for what has no entry."""
        at = np.searchsorted(self.shards, blocks.shard)
        block, rest = np.divmod(blocks.start, self.sequence_length)
        block += self.block_starts[at]
        entries = np.full_like(block, -1)
        inside = np.flatnonzero(
            (rest == 0) & (blocks.start >= 0) & (block < self.block_starts[at + 1])
        )
        number = self._split.inverse(block[inside]) - self.num_validation
        training = number >= 0
        inside, number = inside[training], number[training]
        epoch = blocks.epoch[inside]
        whole = (epoch >= 0) & (epoch < self.whole_epochs)
        entries[inside[whole]] = epoch[whole] * self.num_training + number[whole]
        partial = epoch == self.whole_epochs
        place = self._fraction.inverse(number[partial])
        taken = place < self.part
        first = self.whole_epochs * self.num_training
        entries[inside[partial][taken]] = first + place[taken]
        return entries

    def _find(self, block: Ints, epoch: Ints) -> Blocks:
        at = np.searchsorted(self.block_starts, block, side="right") - 1
        return Blocks(
            source=np.full_like(block, self.source_id),
            epoch=epoch,
            shard=self.shards[at],
            start=(block - self.block_starts[at]) * self.sequence_length,
        )


class EpochIndex:
    """Entries of one manifest, numbered source by source."""

    def __init__(self, parts: list[SourceEpochs]) -> None:
        self.parts = parts
        self.starts: Ints = starts_of([part.num_entries for part in parts])
        self.validation_starts: Ints = starts_of([part.num_validation for part in parts])

    @property
    def num_entries(self) -> int:
        """Entries of all sources."""
        return int(self.starts[-1])

    @property
    def num_validation(self) -> int:
        """Validation blocks of all sources."""
        return int(self.validation_starts[-1])

    def locate(self, entries: Ints, *, validation: bool = False) -> Blocks:
        """Blocks of entries [k], or of validation samples [k]."""
        starts = self.validation_starts if validation else self.starts
        which = np.searchsorted(starts, entries, side="right") - 1
        out = empty_blocks(entries.size)
        for number in np.flatnonzero(np.bincount(which)):
            part = self.parts[number]
            mask = which == number
            local = entries[mask] - starts[number]
            found = part.locate_validation(local) if validation else part.locate(local)
            out.put(mask, found)
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


def _held_out(num_blocks: int, fraction: float) -> int:
    """Validation blocks of a source: rounded up, none from a source of a single block."""
    return math.ceil(Fraction(repr(float(fraction))) * num_blocks) if num_blocks >= 2 else 0


def empty_blocks(size: int) -> Blocks:
    """Places that are yet to be filled in."""
    return Blocks(*(np.empty(size, dtype=np.int64) for _ in range(4)))
