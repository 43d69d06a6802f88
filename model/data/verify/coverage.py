"""An independent count of the blocks that were trained on.

`Coverage` knows what the shards hold and what the weights promise, and nothing of permutations,
entries or segments: a mistake in model/data/order.py cannot hide behind the same mistake here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

import numpy as np

from model.data.epoch_index import Blocks
from model.data.order import SampleOrder
from model.data.permutation import Ints, Permutation


class Coverage:
    """Counts blocks as the shards hold them, knowing nothing of permutations and entries."""

    def __init__(self, order: SampleOrder, *, exhaustive: bool) -> None:
        self.order = order
        self.exhaustive = exhaustive
        self.num_lost = self.num_repeated = self.num_misplaced = self.num_leaked = 0
        self.num_not_found = 0
        length = order.sequence_length
        self.is_validation = np.asarray([s.split == "validation" for s in order.shards])
        weights = _weights_of_shards(order)
        blocks = [(s.num_tokens - 1) // length for s in order.shards]
        epochs = [math.ceil(w) for w in weights]
        self.blocks: Ints = np.asarray(blocks, dtype=np.int64)
        self.epochs: Ints = np.asarray(epochs, dtype=np.int64)
        self.names: Ints = np.asarray(
            [order.sources.index(s.source) for s in order.shards], dtype=np.int64
        )
        self.first: Ints = np.concatenate([[0], np.cumsum(self.blocks * self.epochs)])
        self.weights = weights
        self.first_block: Ints = np.concatenate([[0], np.cumsum(self.blocks)])
        self._add_validation()
        self.seen = np.zeros(int(self.first[-1]) if exhaustive else 0, dtype=bool)
        self.sampled: list[Ints] = []
        self.md5s = np.asarray([list(bytes.fromhex(s.md5)) for s in order.shards], dtype=np.uint8)

    def _add_validation(self) -> None:
        """Count the validation samples: each block of the first data's held-out documents, once."""
        order = self.order
        held_out = order.locate_many(np.arange(order.num_validation_samples), validation=True)
        mine = [
            number
            for number, shard in enumerate(order.shards)
            if shard.split == "validation" and order.manifests[number] is order.manifest
        ]
        good = (held_out.start % order.sequence_length == 0) & (held_out.start >= 0)
        block = held_out.start // order.sequence_length
        good &= (block < self.blocks[held_out.shard]) & (held_out.epoch == 0)
        self.num_misplaced += int(np.count_nonzero(~good))
        inside = np.isin(held_out.shard, mine)
        self.num_leaked += int(np.count_nonzero(~inside))
        places = _distinct((self.first_block[held_out.shard] + block)[good & inside])
        self.num_repeated += int(np.count_nonzero(good & inside)) - places.size
        self.num_lost += int(self.blocks[mine].sum()) - places.size

    def add(self, found: Blocks) -> None:
        """Count some samples."""
        leaked = self.is_validation[found.shard]
        self.num_leaked += int(np.count_nonzero(leaked))
        found = found.take(~leaked)
        if not found.shard.size:
            return
        length = self.order.sequence_length
        block = found.start // length
        good = (
            (found.start % length == 0)
            & (found.start >= 0)
            & (block < self.blocks[found.shard])
            & (found.epoch >= 0)
            & (found.epoch < self.epochs[found.shard])
            & (found.source == self.names[found.shard])
        )
        self.num_misplaced += int(np.count_nonzero(~good))
        found = found.take(good)
        places = (
            self.first[found.shard] + found.epoch * self.blocks[found.shard] + found.start // length
        )
        if self.exhaustive:
            before = int(np.count_nonzero(self.seen[places]))
            self.seen[places] = True
            self.num_repeated += before + places.size - _distinct(places).size
        else:
            self.sampled.append(places)

    def close(self) -> None:
        """Count promised blocks that never came; call once, when all is added."""
        if not self.exhaustive:
            places = np.concatenate(self.sampled)
            self.num_repeated += places.size - _distinct(places).size
            self.num_lost += abs(self._promised() - self.order.num_samples)
            return
        for group, weight in self._groups():
            usable = int(self.blocks[group].sum())
            for epoch in range(math.ceil(weight)):
                seen = 0
                for shard in group:
                    begin = self.first[shard] + epoch * self.blocks[shard]
                    seen += int(np.count_nonzero(self.seen[begin : begin + self.blocks[shard]]))
                self.num_lost += abs(_part(weight, epoch, usable) - seen)

    def content(self, found: Blocks) -> bytes:
        """Samples as bytes that do not depend on names or numbering of shards."""
        numbers = np.stack([found.epoch, found.start], axis=1).astype("<i8").view(np.uint8)
        return np.concatenate([self.md5s[found.shard], numbers], axis=1).tobytes()

    def check_inverse(self, permutation: Permutation) -> int:
        """Send up to a million numbers through a permutation and back; return how many.

        A map with an inverse neither loses nor repeats.
        """
        n = permutation.n
        numbers = _distinct(np.linspace(0, max(n - 1, 0), num=min(n, 1_000_000), dtype=np.int64))
        back = permutation.inverse(permutation(numbers))
        self.num_repeated += int(np.count_nonzero(back != numbers))
        return numbers.size

    def look_up(self, count: int, seed: int = 0) -> int:
        """Look up the samples of blocks drawn from the shards, and compare; return how many.

        Draws (block, epoch) at random from all that the weights speak of; one that should come
        and does not is not found, nor is one that is said to come where something else does. A
        fraction of an epoch may leave a block out.
        """
        total = int(self.first[-1])
        draw = np.random.default_rng(seed).integers(0, max(total, 1), min(count, total))
        places = _distinct(draw)
        shard = np.searchsorted(self.first, places, side="right") - 1
        epoch, block = np.divmod(places - self.first[shard], self.blocks[shard])
        drawn = Blocks(self.names[shard], epoch, shard, block * self.order.sequence_length)
        samples = self.order.find_many(drawn)
        floors = np.asarray([math.floor(weight) for weight in self.weights], dtype=np.int64)
        missing = samples < 0
        self.num_not_found += int(np.count_nonzero(missing & (drawn.epoch < floors[drawn.shard])))
        drawn = drawn.take(~missing)
        there = self.order.locate_many(samples[~missing])
        differing = np.stack(drawn) != np.stack(there)
        self.num_not_found += int(np.count_nonzero(differing.any(axis=0)))
        return drawn.shard.size

    def _groups(self) -> Iterator[tuple[list[int], Fraction]]:
        """Shards to train on that share a weight: those of one source within one manifest."""
        groups: dict[tuple[int, str], list[int]] = {}
        for number, shard in enumerate(self.order.shards):
            if shard.split == "validation":
                continue
            key = (id(self.order.manifests[number]), shard.source)
            groups.setdefault(key, []).append(number)
        for group in groups.values():
            yield group, self.weights[group[0]]

    def _promised(self) -> int:
        return sum(
            _part(weight, epoch, int(self.blocks[group].sum()))
            for group, weight in self._groups()
            for epoch in range(math.ceil(weight))
        )


def _weights_of_shards(order: SampleOrder) -> list[Fraction]:
    """Epochs promised for each shard of an order, as exact as they were written; no epoch of
    held-out documents."""
    by_manifest: dict[str, Mapping[str, float]] = {order.manifest.digest: order.weights}
    by_manifest |= {append.manifest.digest: append.weights for append in order.appends}
    return [
        Fraction(repr(float(by_manifest[owner.digest].get(shard.source, 1.0))))
        if shard.split == "train"
        else Fraction(0)
        for owner, shard in zip(order.manifests, order.shards, strict=True)
    ]


def _part(weight: Fraction, epoch: int, usable: int) -> int:
    """Blocks of a source that an epoch of a weight takes: all, or the rounded fraction."""
    share = min(Fraction(1), weight - epoch)
    return math.floor(share * usable + Fraction(1, 2))


def _distinct(numbers: Ints) -> Ints:
    """Ascending, each once. NumPy's `unique` hashes, which takes ten times as long here."""
    ordered = np.sort(numbers)
    return (
        ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if numbers.size else ordered
    )
