"""Which block of tokens is sample number s? A function, not a list.

    sample s ──segment──▶ j ──permutation──▶ p ──┬─ p < unseen ──▶ an unseen place of the segment
             (the last append with at <= s)      │                 before, and so on back
                                                 └─ else ──▶ slot of the new data
    slot ──▶ (source, epoch, number) ──source's permutation──▶ block ──▶ (shard, start)

A *slot* is one (source, epoch, block): a source with weight w (epochs) has floor(w) slots for each
of its blocks and one more for a random part of them. A *block* is sequence_length + 1 consecutive
tokens of a shard at stride sequence_length: the last token of one is the first of the next, so
every token but a shard's first is predicted once an epoch. Fewer than sequence_length tokens at the
end of a shard are left over.

Validation blocks are the first ones of each source's permutation. They depend on the data, the
sequence length and the fraction alone: neither seed nor weights nor appends move them, so
validation losses stay comparable. docs/adr/0004-order-is-a-function.md explains the maths.

Memory is O(shards + appends); any sample is found without those before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from model.data.journal import Journal
from model.data.manifest import PackedManifest, ShardInfo
from model.data.permutation import Ints, Permutation
from model.errors import ConfigError, DataError


@dataclass(frozen=True)
class Block:
    """Where one sample lies."""

    source: str
    """Corpus that it comes from."""
    epoch: int
    """How often the source was gone through before, 0-based."""
    shard: int
    """Index into `SampleOrder.shards`."""
    start: int
    """First of its sequence_length + 1 tokens, in tokens from the beginning of the shard."""


@dataclass(frozen=True)
class Blocks:
    """Where many samples lie; every array is int64 [k]."""

    source: Ints
    """Index into `SampleOrder.sources`."""
    epoch: Ints
    shard: Ints
    start: Ints


class _SourceSlots:
    """The slots of one source within one manifest."""

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
        self.block_starts: Ints = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
        self.num_blocks = int(self.block_starts[-1])
        self.num_validation = _held_out(self.num_blocks, validation_fraction)
        self.num_training = self.num_blocks - self.num_validation
        exact = Fraction(repr(float(weight)))
        whole = math.floor(exact)
        self.part = math.floor((exact - whole) * self.num_training + Fraction(1, 2))
        self.whole_epochs = whole
        self.num_slots = whole * self.num_training + self.part
        # Which blocks are held out must not move with the seed; which ones a fraction takes should.
        self._split = Permutation(self.num_blocks, "split", name)
        self._fraction = Permutation(self.num_training, "fraction", seed, name)

    def locate(self, slots: Ints) -> Blocks:
        epoch, number = np.divmod(slots, max(self.num_training, 1))
        partial = epoch == self.whole_epochs
        if partial.any():
            number[partial] = self._fraction(number[partial])
        return self._find(self._split(self.num_validation + number), epoch)

    def locate_validation(self, numbers: Ints) -> Blocks:
        return self._find(self._split(numbers), np.zeros_like(numbers))

    def _find(self, block: Ints, epoch: Ints) -> Blocks:
        at = np.searchsorted(self.block_starts, block, side="right") - 1
        return Blocks(
            source=np.full_like(block, self.source_id),
            epoch=epoch,
            shard=self.shards[at],
            start=(block - self.block_starts[at]) * self.sequence_length,
        )


class _Slots:
    """All slots of one manifest, numbered source by source."""

    def __init__(self, parts: list[_SourceSlots]) -> None:
        self.parts = parts
        self.starts: Ints = _starts([part.num_slots for part in parts])
        self.validation_starts: Ints = _starts([part.num_validation for part in parts])

    @property
    def num_slots(self) -> int:
        return int(self.starts[-1])

    @property
    def num_validation(self) -> int:
        return int(self.validation_starts[-1])

    def locate(self, slots: Ints, *, validation: bool = False) -> Blocks:
        starts = self.validation_starts if validation else self.starts
        which = np.searchsorted(starts, slots, side="right") - 1
        out = _empty(slots.size)
        for number in np.unique(which):
            part = self.parts[number]
            mask = which == number
            local = slots[mask] - starts[number]
            found = part.locate_validation(local) if validation else part.locate(local)
            _put(out, mask, found)
        return out


@dataclass(frozen=True)
class _Segment:
    """The order from sample `at` until the next append."""

    at: int
    unseen: int
    """Places of the segment before that were not reached, [consumed, consumed + unseen)."""
    consumed: int
    """How many places of the segment before were."""
    slots: _Slots
    permutation: Permutation


class SampleOrder:
    """The order in which blocks are trained on.

    Args:
        manifest: the data the run started with.
        sequence_length: tokens per sample, L >= 1; a block has L + 1.
        seed: of the permutation.
        weights: epochs per source, >= 0, fractions allowed; 1.0 where not named.
        validation_fraction: part of each source's blocks that is never trained on, in [0, 0.5];
            rounded up, so that every source of two blocks or more is represented.
        journal: data appended during the run.

    Raises:
        ConfigError: a weight names no source or is negative; a value is out of range.
        DataError: the journal does not fit, or no block of this length can be cut.
    """

    def __init__(
        self,
        manifest: PackedManifest,
        *,
        sequence_length: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        validation_fraction: float = 0.0,
        journal: Journal | None = None,
    ) -> None:
        if sequence_length < 1:
            raise ConfigError(f"sequence_length {sequence_length} must be at least 1")
        if not 0.0 <= validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction {validation_fraction} must lie in [0, 0.5]")
        self.manifest = manifest
        self.sequence_length = sequence_length
        self.seed = seed
        self.validation_fraction = validation_fraction
        self.journal = journal or Journal()
        self.weights = _complete(weights, manifest, "weights")
        self.journal.check(manifest)

        shards: list[ShardInfo] = []
        owners: list[PackedManifest] = []
        sources: list[str] = []
        self._segments: list[_Segment] = []
        appends = [(0, manifest, seed, self.weights)] + [
            (e.at, self.journal.manifests[e.manifest], e.seed, e.weights)
            for e in self.journal.entries
        ]
        for number, (at, new, new_seed, new_weights) in enumerate(appends):
            complete = _complete(new_weights, new, f"weights of journal entry {number - 1}")
            sources += [name for name in new.sources if name not in sources]
            parts = [
                _SourceSlots(
                    new,
                    name,
                    first_shard=len(shards),
                    source_id=sources.index(name),
                    sequence_length=sequence_length,
                    weight=complete[name],
                    # Everything appended is trained on; the validation set stays what it was.
                    validation_fraction=validation_fraction if number == 0 else 0.0,
                    seed=new_seed,
                )
                for name in new.sources
            ]
            self._add_segment(at, new, new_seed, _Slots(parts))
            shards += new.shards
            owners += [new] * len(new.shards)
        self.shards: tuple[ShardInfo, ...] = tuple(shards)
        self.manifests: tuple[PackedManifest, ...] = tuple(owners)
        self.sources: tuple[str, ...] = tuple(sources)
        self._ats = np.asarray([segment.at for segment in self._segments], dtype=np.int64)
        if self._segments[0].slots.num_slots == 0 and len(self._segments) == 1:
            raise DataError(
                f"no block of {sequence_length + 1} tokens can be cut from {manifest.num_tokens} "
                f"tokens in {len(manifest.shards)} shards of {manifest.folder} with weights "
                f"{self.weights}: choose a shorter sequence_length or pack more data"
            )

    @property
    def num_samples(self) -> int:
        """Training samples in all: the order is defined on [0, num_samples)."""
        last = self._segments[-1]
        return last.at + last.permutation.n

    @property
    def num_validation_samples(self) -> int:
        """Validation blocks; they come from the first manifest only."""
        return self._segments[0].slots.num_validation

    @property
    def permutations(self) -> tuple[Permutation, ...]:
        """The permutation of each stretch between two appends; for proofs."""
        return tuple(segment.permutation for segment in self._segments)

    def samples_by_source(self) -> dict[str, int]:
        """Training samples of each source over the whole order."""
        totals = dict.fromkeys(self.sources, 0)
        for segment in self._segments:
            for part in segment.slots.parts:
                totals[self.sources[part.source_id]] += part.num_slots
        return totals

    def locate(self, sample: int) -> Block:
        """Where training sample number `sample` lies. Raises IndexError outside the order."""
        return self._one(self.locate_many([sample]))

    def locate_validation(self, number: int) -> Block:
        """Where validation sample number `number` lies. Raises IndexError outside."""
        return self._one(self.locate_many([number], validation=True))

    def locate_many(self, samples: npt.ArrayLike, *, validation: bool = False) -> Blocks:
        """`locate` or `locate_validation` for sample numbers [k]."""
        numbers = np.atleast_1d(np.asarray(samples, dtype=np.int64))
        limit = self.num_validation_samples if validation else self.num_samples
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < limit):
            raise IndexError(
                f"sample numbers {numbers.min()}..{numbers.max()} are outside of the order's "
                f"{limit} {'validation' if validation else 'training'} samples"
            )
        if validation:
            shuffled = self._validation_permutation(numbers)
            return self._segments[0].slots.locate(shuffled, validation=True)
        out = _empty(numbers.size)
        pending = np.searchsorted(self._ats, numbers, side="right") - 1
        places = numbers - self._ats[pending]
        # From the last segment back: what is unseen of the one before is looked up there.
        for index in range(len(self._segments) - 1, -1, -1):
            mask = pending == index
            if not mask.any():
                continue
            segment = self._segments[index]
            place = segment.permutation(places[mask])
            new = place >= segment.unseen
            at = np.flatnonzero(mask)
            _put(out, at[new], segment.slots.locate(place[new] - segment.unseen))
            places[at[~new]] = segment.consumed + place[~new]
            pending[at[~new]] = index - 1
        return out

    @cached_property
    def _validation_permutation(self) -> Permutation:
        return Permutation(self.num_validation_samples, "validation")

    def _add_segment(self, at: int, new: PackedManifest, seed: int, slots: _Slots) -> None:
        consumed = unseen = 0
        if self._segments:
            before = self._segments[-1]
            consumed = at - before.at
            unseen = before.permutation.n - consumed
            if unseen < 0:
                raise DataError(
                    f"data are appended at sample {at}, but the order ends at "
                    f"{before.at + before.permutation.n}: append no later than that"
                )
        n = unseen + slots.num_slots
        self._segments.append(
            _Segment(
                at=at,
                unseen=unseen,
                consumed=consumed,
                slots=slots,
                permutation=Permutation(n, "order", seed, at, new.digest),
            )
        )

    def _one(self, blocks: Blocks) -> Block:
        return Block(
            source=self.sources[int(blocks.source[0])],
            epoch=int(blocks.epoch[0]),
            shard=int(blocks.shard[0]),
            start=int(blocks.start[0]),
        )


def _held_out(num_blocks: int, fraction: float) -> int:
    """Validation blocks of a source: rounded up, none from a source of a single block."""
    return math.ceil(Fraction(repr(float(fraction))) * num_blocks) if num_blocks >= 2 else 0


def _complete(
    weights: Mapping[str, float] | None, manifest: PackedManifest, where: str
) -> dict[str, float]:
    """A weight for every source, or an error that says what is wrong with one."""
    given = dict(weights or {})
    for name, weight in given.items():
        if name not in manifest.sources:
            raise ConfigError(
                f"{where}: {name!r} is no source of the packed data; there are "
                f"{', '.join(manifest.sources)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{where}: {weight} epochs of {name!r} must be a number >= 0")
    return {name: float(given.get(name, 1.0)) for name in manifest.sources}


def _starts(sizes: list[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _empty(size: int) -> Blocks:
    return Blocks(*(np.empty(size, dtype=np.int64) for _ in range(4)))


def _put(out: Blocks, where: npt.NDArray[np.intp] | npt.NDArray[np.bool_], found: Blocks) -> None:
    out.source[where] = found.source
    out.epoch[where] = found.epoch
    out.shard[where] = found.shard
    out.start[where] = found.start
