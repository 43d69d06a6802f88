"""The order of training: from a sample number to its block of tokens, by a function, not a list.

    sample s ──segment──▶ j ──permutation──▶ p ──┬─ p < unseen ──▶ an unseen place of the segment
             (the last append with at <= s)      │                 before, and so on back
                                                 └─ else ──▶ entry of the new data
    entry ──▶ (source, epoch, number) ──▶ block ──▶ (shard, start)

An entry is one (source, epoch, block) of one manifest: epoch_index.py. The order can be read in the
other direction, too: from a block to the sample that shows it. docs/adr/0004-order-is-a-function.md
explains the maths.

Memory is O(shards + appends); any sample is found without those before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError, DataError
from model.data.append import Append, check_appends
from model.data.epoch_index import Blocks, EpochIndex, SourceBlocks, SourceEpochs, empty_blocks
from model.data.manifest import PackedManifest, ShardInfo
from model.data.permutation import Ints, Permutation


def rank_samples(
    steps: npt.ArrayLike, *, global_batch_size: int, rank: int, world_size: int
) -> npt.NDArray[np.int64]:
    """Sample numbers of one rank in each of some steps: steps [k] -> int64 [k, G / W].

    Step n has samples [n*G, (n+1)*G); rank r takes the r-th of W equal runs of them, and its
    micro-batches are equal runs of that.
    """
    share = global_batch_size // world_size
    first = np.asarray(steps, dtype=np.int64) * global_batch_size + rank * share
    numbers: npt.NDArray[np.int64] = first[:, None] + np.arange(share, dtype=np.int64)
    return numbers


@dataclass(frozen=True)
class _Segment:
    """The order from sample `at` until the next append."""

    at: int
    unseen: int
    """Places of the segment before that were not reached, [consumed, consumed + unseen)."""
    consumed: int
    """Places of the segment before that were reached."""
    epoch_index: EpochIndex[SourceEpochs]
    permutation: Permutation


class SampleOrder:
    """The order in which blocks are trained on.

    Args:
        manifest: the data the run started with.
        sequence_length: tokens per sample, L >= 1; a block has L + 1.
        seed: of the permutation.
        weights: epochs per source, >= 0, fractions allowed; 1.0 where not named.
        appends: data that joined during the run, ascending in `at`.

    Raises:
        ConfigError: a weight names no source or is negative; a value is out of range.
        DataError: an append does not fit, or no block of this length can be cut.
    """

    def __init__(
        self,
        manifest: PackedManifest,
        *,
        sequence_length: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        appends: Sequence[Append] = (),
    ) -> None:
        if sequence_length < 1:
            raise ConfigError(f"sequence_length {sequence_length} must be at least 1")
        self.manifest = manifest
        self.sequence_length = sequence_length
        self.seed = seed
        self.appends = tuple(appends)
        self.weights = _complete(weights, manifest, "weights")
        check_appends(manifest, self.appends)

        shards: list[ShardInfo] = []
        owners: list[PackedManifest] = []
        sources: list[str] = []
        first_shards: list[int] = []
        self._segments: list[_Segment] = []
        first = Append(at=0, manifest=manifest, seed=seed, weights=self.weights)
        for number, append in enumerate((first, *self.appends)):
            new = append.manifest
            complete = _complete(append.weights, new, f"weights of append {number - 1}")
            sources += [name for name in new.sources if name not in sources]
            parts = [
                SourceEpochs(
                    SourceBlocks(
                        new,
                        name,
                        "train",
                        first_shard=len(shards),
                        source_id=sources.index(name),
                        sequence_length=sequence_length,
                    ),
                    name=name,
                    weight=complete[name],
                    seed=append.seed,
                )
                for name in new.sources
            ]
            self._add_segment(append, EpochIndex(parts))
            first_shards.append(len(shards))
            shards += new.shards
            owners += [new] * len(new.shards)
        self.shards: tuple[ShardInfo, ...] = tuple(shards)
        self.manifests: tuple[PackedManifest, ...] = tuple(owners)
        self.sources: tuple[str, ...] = tuple(sources)
        # What an append holds out is not trained on, and does not change what losses are of.
        self._validation = EpochIndex(
            [
                SourceBlocks(
                    manifest,
                    name,
                    "validation",
                    first_shard=0,
                    source_id=number,
                    sequence_length=sequence_length,
                )
                for number, name in enumerate(manifest.sources)
            ]
        )
        self._first_shards = np.asarray(first_shards, dtype=np.int64)
        self._ats = np.asarray([segment.at for segment in self._segments], dtype=np.int64)
        if self._segments[0].epoch_index.num_entries == 0 and len(self._segments) == 1:
            raise DataError(
                f"no block of {sequence_length + 1} tokens can be cut from the "
                f"{sum(shard.num_tokens for shard in manifest.of_split('train'))} tokens to train "
                f"on in {len(manifest.of_split('train'))} shards of {manifest.folder} with weights "
                f"{self.weights}: choose a shorter sequence_length or pack more data"
            )

    @property
    def num_samples(self) -> int:
        """Training samples in all: the order is defined on [0, num_samples)."""
        last = self._segments[-1]
        return last.at + last.permutation.n

    @property
    def samples_appended(self) -> tuple[int, ...]:
        """Training samples that each append adds."""
        return tuple(segment.epoch_index.num_entries for segment in self._segments[1:])

    @property
    def num_validation_samples(self) -> int:
        """Blocks of held-out documents; they come from the first manifest only."""
        return self._validation.num_entries

    @property
    def permutations(self) -> tuple[Permutation, ...]:
        """The permutation of each stretch between two appends; for proofs."""
        return tuple(segment.permutation for segment in self._segments)

    def samples_by_source(self) -> dict[str, int]:
        """Training samples of each source over the whole order."""
        totals = dict.fromkeys(self.sources, 0)
        for segment in self._segments:
            for part in segment.epoch_index.parts:
                totals[self.sources[part.source_id]] += part.num_entries
        return totals

    def validation_samples_by_source(self) -> dict[str, int]:
        """Blocks of held-out documents of each source that the run started with."""
        return {self.sources[p.source_id]: p.num_entries for p in self._validation.parts}

    def sources_without_samples(self) -> dict[str, int]:
        """Tokens of each source that was given a weight, and yet makes no sample anywhere.

        Its shards are shorter than a block, or the weight is less than half of one.
        """
        made = self.samples_by_source()
        tokens: dict[str, int] = {}
        for segment in self._segments:
            for part in segment.epoch_index.parts:
                name = self.sources[part.source_id]
                if part.weight and not made[name]:
                    tokens[name] = tokens.get(name, 0) + part.blocks.num_tokens
        return tokens

    def expected_epochs(self, consumed: int) -> dict[str, float]:
        """Epochs of each source in the first `consumed` samples, as the permutation's mean.

        A pseudo-random order spreads every source evenly over what is still unseen, so between two
        appends a source is read in proportion to what is left of it. What was really read differs
        by the noise of drawing without replacement: at most sqrt(n) / 2 of n samples.
        """
        left = dict.fromkeys(self.sources, 0.0)
        blocks = dict.fromkeys(self.sources, 0)
        read = dict.fromkeys(self.sources, 0.0)
        ends = [segment.at for segment in self._segments[1:]] + [consumed]
        for segment, end in zip(self._segments, ends, strict=True):
            if segment.at and segment.at >= consumed:
                break
            for part in segment.epoch_index.parts:
                left[self.sources[part.source_id]] += part.num_entries
                blocks[self.sources[part.source_id]] += part.blocks.num_entries
            share = (min(consumed, end) - segment.at) / max(1, segment.permutation.n)
            for name, number in left.items():
                read[name] += number * share
                left[name] = number * (1 - share)
        return {name: read[name] / max(1, blocks[name]) for name in self.sources}

    def locate_many(self, samples: npt.ArrayLike, *, validation: bool = False) -> Blocks:
        """Places of training or validation samples [k]. Raises IndexError outside of the order."""
        numbers = np.atleast_1d(np.asarray(samples, dtype=np.int64))
        limit = self.num_validation_samples if validation else self.num_samples
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < limit):
            raise IndexError(
                f"sample numbers {numbers.min()}..{numbers.max()} are outside of the order's "
                f"{limit} {'validation' if validation else 'training'} samples"
            )
        if validation:
            shuffled = self._validation_permutation(numbers)
            return self._validation.locate(shuffled)
        out = empty_blocks(numbers.size)
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
            out.put(at[new], segment.epoch_index.locate(place[new] - segment.unseen))
            places[at[~new]] = segment.consumed + place[~new]
            pending[at[~new]] = index - 1
        return out

    def find_many(self, blocks: Blocks) -> Ints:
        """Numbers [k] of the samples that show some blocks: the inverse of `locate_many`.

        -1 for what is never trained on: a held-out block, an epoch that a fraction left out, a
        start that is none. `source` is not looked at, a shard has but one.
        """
        out = np.full_like(blocks.start, -1)
        owner = np.searchsorted(self._first_shards, blocks.shard, side="right") - 1
        for index, segment in enumerate(self._segments):
            at = np.flatnonzero(owner == index)
            entries = segment.epoch_index.find(blocks.take(at))
            at, entries = at[entries >= 0], entries[entries >= 0]
            place = segment.permutation.inverse(segment.unseen + entries)
            # What was not reached before the next append is a place of the next segment.
            for now, later in zip(
                self._segments[index:], self._segments[index + 1 :], strict=False
            ):
                seen = place < later.consumed
                out[at[seen]] = now.at + place[seen]
                at, place = at[~seen], later.permutation.inverse(place[~seen] - later.consumed)
            out[at] = self._segments[-1].at + place
        return out

    @cached_property
    def _validation_permutation(self) -> Permutation:
        return Permutation(self.num_validation_samples, "validation")

    def _add_segment(self, append: Append, epoch_index: EpochIndex[SourceEpochs]) -> None:
        at = append.at
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
        n = unseen + epoch_index.num_entries
        self._segments.append(
            _Segment(
                at=at,
                unseen=unseen,
                consumed=consumed,
                epoch_index=epoch_index,
                permutation=Permutation(n, "order", append.seed, at, append.manifest.digest),
            )
        )


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
