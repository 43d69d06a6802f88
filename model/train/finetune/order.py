"""Order of the samples of a fine-tuning: a function of settings and epoch, and of nothing else.

    epoch ──permutation──▶ samples ──(grouped by length)──▶ steps of G ──▶ micro-batches of a rank

An epoch holds each sample once; its last step may be smaller. No state of a generator is involved,
so a run that is resumed anywhere goes on with the samples that an uninterrupted run has there, on
any number of ranks.

N = samples, G = samples in a step (all ranks), W = ranks, M = samples in a micro-batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from model.data.permutation import Ints, Permutation

FILLER = -1
"""Place of a micro-batch that holds no sample. Ranks must make equally many micro-batches of equal
size, so a step that does not split evenly is filled up with rows without a target."""
GROUP_OF_STEPS = 50
"""Steps whose samples are sorted by length together, as Transformers does; fewer in small data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleOrder:
    """Order of N samples in every epoch."""

    lengths: Ints = field(repr=False)
    """Tokens of each sample, [N]."""
    counts: Ints = field(repr=False)
    """Conversations or pairs in each sample, [N]: several in a packed row."""
    global_batch_size: int
    micro_batch_size: int
    seed: int
    group_by_length: bool

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def steps_in_epoch(self) -> int:
        """Steps of an epoch, the smaller last one included."""
        return -(-self.num_samples // self.global_batch_size)

    def steps(self, epoch: int) -> list[Ints]:
        """Samples of each step of an epoch, in order."""
        size = self.global_batch_size
        order = Permutation(self.num_samples, "finetune", self.seed, epoch)(
            np.arange(self.num_samples)
        )
        if not self.group_by_length:
            return [order[at : at + size] for at in range(0, len(order), size)]
        group = size * max(1, min(self.num_samples // (4 * size), GROUP_OF_STEPS))
        parts = [order[at : at + group] for at in range(0, len(order), group)]
        order = np.concatenate(
            [part[np.argsort(-self.lengths[part], kind="stable")] for part in parts]
        )
        steps = [order[at : at + size] for at in range(0, len(order), size)]
        whole = self.num_samples // size  # a smaller last step stays the last
        places = Permutation(whole, "finetune steps", self.seed, epoch)(np.arange(whole)).tolist()
        if places:
            # The longest first: should it not fit into memory, that shows at once.
            longest = max(places, key=lambda place: int(self.lengths[steps[place]].max()))
            places.remove(longest)
            places.insert(0, longest)
        return [steps[place] for place in places] + steps[whole:]

    def micro_batches(self, epoch: int, rank: int, num_ranks: int) -> Iterator[list[int]]:
        """Samples of each micro-batch of one rank in an epoch; FILLER where it has none."""
        for samples in self.steps(epoch):
            number = self.num_micro_batches(len(samples), num_ranks)
            for part in np.array_split(samples, number):
                each = -(-len(part) // num_ranks)
                own = part[rank * each : (rank + 1) * each].tolist()
                yield own + [FILLER] * (each - len(own))

    def num_micro_batches(self, num_samples: int, num_ranks: int) -> int:
        """Micro-batches of each rank in a step of so many samples."""
        return -(-num_samples // (self.micro_batch_size * num_ranks))

    def num_batches(self, num_ranks: int) -> int:
        """Micro-batches of each rank in an epoch."""
        whole, rest = divmod(self.num_samples, self.global_batch_size)
        in_rest = self.num_micro_batches(rest, num_ranks)
        return whole * self.num_micro_batches(self.global_batch_size, num_ranks) + in_rest

    def samples_in_step(self, step: int) -> int:
        """Samples of the step after `step` completed ones."""
        place = step % self.steps_in_epoch
        return min(self.global_batch_size, self.num_samples - place * self.global_batch_size)

    def position(self, step: int) -> dict[str, float]:
        """Conversations or pairs, and tokens, that `step` completed steps were made of."""
        epochs, place = divmod(step, self.steps_in_epoch)
        seen = self._seen_in(epochs)[place]
        return {
            "data/samples": float(epochs * int(self.counts.sum()) + seen[0]),
            "data/tokens": float(epochs * int(self.lengths.sum()) + seen[1]),
            # Transformers' own says how many micro-batches of the epoch are done.
            "train/epoch": epochs + seen[0] / int(self.counts.sum()),
        }

    @cached_property
    def _memory(self) -> dict[int, list[tuple[int, int]]]:
        return {}

    def _seen_in(self, epoch: int) -> list[tuple[int, int]]:
        """(conversations or pairs, tokens) of an epoch after each number of its steps."""
        if epoch not in self._memory:
            self._memory.clear()
            seen = [(0, 0)]
            for samples in self.steps(epoch):
                count, tokens = int(self.counts[samples].sum()), int(self.lengths[samples].sum())
                seen.append((seen[-1][0] + count, seen[-1][1] + tokens))
            self._memory[epoch] = seen
        return self._memory[epoch]
