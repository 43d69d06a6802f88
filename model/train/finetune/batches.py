"""Batches of a fine-tuning: which samples a step is made of, and how they are laid out in rows.

    epoch ──permutation──▶ steps of G samples ──▶ micro-batches of each rank ──▶ rows

A step's samples follow from seed, epoch and number (grouped, from their lengths, too). How they are
laid out, over however many ranks, changes nothing in the mean over its targets: a run goes on with
the samples that an uninterrupted one has, on any number of ranks, packed or not.

    packed   one row of all samples of a micro-batch, each a document of its own:
             a a a b b b b b c c c c      no padding but up to a multiple of ALIGNMENT
    padded   a a a . .                    samples of similar length, one a row
             b b b b b

Packed, a step is divided into as few micro-batches as its tokens need, of about equal length on all
ranks (the longest sample first, into the shortest row: Graham 1969). No sample waits for an epoch's
best fit, so that packing moves none into another step.

G = samples in a step (all ranks), W = ranks, N = samples, D = documents, T = tokens of a row.
"""

import heapq
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from model.data import MicroBatch
from model.data.dataset import IGNORED
from model.data.permutation import Ints, Permutation

GROUP_OF_STEPS = 50
"""Steps whose samples are sorted by length together, as Transformers does; fewer in small data."""
ALIGNMENT = 8
"""Rows have a multiple of so many tokens: matrix products of a GPU want it."""

Layout: TypeAlias = list[list[list[int]]]
"""[micro-batch][rank] -> places of its samples among those that are laid out."""


class Document(NamedTuple):
    """A sequence that sees itself alone."""

    ids: npt.NDArray[np.int64]
    """Tokens, [L]."""
    labels: npt.NDArray[np.int64]
    """The same, IGNORED where a token is no target, [L]."""
    source: int
    """Number of the set it is from."""
    sample: int
    """Number of the sample it is of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepOrder:
    """Samples of each step: every epoch holds each once, the last step of one may be smaller."""

    num_samples: int
    """N."""
    global_batch_size: int
    """G."""
    seed: int
    lengths: Ints | None = field(default=None, repr=False)
    """Tokens of each sample, [N]: those of a step are then of similar length. None: as they come.

    Samples are sorted within groups of GROUP_OF_STEPS steps, and the steps of all groups are
    shuffled: a curve over them shows no trace of the groups."""
    _epochs: dict[int, Ints] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def steps_in_epoch(self) -> int:
        """Steps of an epoch, the smaller last one included."""
        return -(-self.num_samples // self.global_batch_size)

    def samples(self, step: int) -> Ints:
        """Numbers of the samples of a step, at most [G]."""
        epoch, place = divmod(step, self.steps_in_epoch)
        first = place * self.global_batch_size
        return self.epoch(epoch)[first : first + self.global_batch_size]

    def epoch(self, epoch: int) -> Ints:
        """Numbers of all samples in the order of an epoch, [N]."""
        with self._lock:  # what reads ahead may be an epoch further
            if epoch not in self._epochs:
                self._epochs[epoch] = self._order(epoch)
                for old in sorted(self._epochs, key=lambda e: abs(e - epoch))[2:]:
                    del self._epochs[old]
            return self._epochs[epoch]

    def _order(self, epoch: int) -> Ints:
        size, total = self.global_batch_size, self.num_samples
        order = Permutation(total, "finetune", self.seed, epoch)(np.arange(total))
        if self.lengths is None:
            return order
        group = size * max(1, min(total // (4 * size), GROUP_OF_STEPS))
        parts = [order[at : at + group] for at in range(0, total, group)]
        order = np.concatenate(
            [part[np.argsort(-self.lengths[part], kind="stable")] for part in parts]
        )
        whole = total // size  # a smaller last step stays the last
        if whole:
            places = Permutation(whole, "finetune steps", self.seed, epoch)(np.arange(whole))
            steps = order[: whole * size].reshape(whole, size)[places]
            order = np.concatenate([steps.ravel(), order[whole * size :]])
        return order

    def num_before(self, step: int) -> int:
        """Samples of all steps before this one, over all epochs."""
        epoch, place = divmod(step, self.steps_in_epoch)
        return epoch * self.num_samples + min(place * self.global_batch_size, self.num_samples)


def lay_out(
    lengths: Ints, *, num_ranks: int, micro_batch_size: int, row_tokens: int, packed: bool
) -> Layout:
    """Divide samples of these lengths [n] into micro-batches, equally many on each rank.

    packed: at most `row_tokens` tokens in a micro-batch; else at most `micro_batch_size` samples
    of similar length. A rank may have none in a micro-batch.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    if not packed:
        size = micro_batch_size * num_ranks
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        return [[part[rank::num_ranks] for rank in range(num_ranks)] for part in parts]
    number = max(1, math.ceil(int(lengths.sum()) / (row_tokens * num_ranks)))
    while (rows := _balance(order, lengths, number * num_ranks, row_tokens)) is None:
        number += 1
    # Rows of similar length run at the same time.
    rows.sort(key=lambda row: (-int(lengths[row].sum()), row))
    return [rows[at : at + num_ranks] for at in range(0, len(rows), num_ranks)]


def _balance(
    order: Sequence[int], lengths: Ints, number: int, limit: int
) -> list[list[int]] | None:
    """So many rows of about equal length; None where one would be longer than `limit`."""
    rows: list[list[int]] = [[] for _ in range(number)]
    shortest = [(0, row) for row in range(number)]
    for sample in order:
        tokens, row = shortest[0]
        tokens += int(lengths[sample])
        if tokens > limit and rows[row]:
            return None
        rows[row].append(sample)
        heapq.heapreplace(shortest, (tokens, row))
    return rows


def packed_batch(documents: Sequence[Document], *, padding_id: int) -> MicroBatch:
    """One row of all documents, one behind the other; padding behind them is one more."""
    lengths = [len(document.ids) for document in documents]
    total = aligned(max(1, sum(lengths)))
    ids = np.full(total, padding_id, np.int32)
    labels = np.full(total, IGNORED, np.int32)
    source, sample = np.zeros(total, np.int64), np.zeros(total, np.int64)
    bounds = [0]
    for document, length in zip(documents, lengths, strict=True):
        place = slice(bounds[-1], bounds[-1] + length)
        ids[place], source[place], sample[place] = document.ids, document.source, document.sample
        labels[place] = shifted(document.labels)
        bounds.append(place.stop)
    if bounds[-1] < total:
        bounds.append(total)
    batch = _batch(ids[None], labels[None], source[None], sample[None])
    batch["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32)
    batch["max_seqlen"] = int(np.diff(bounds).max())
    return batch


def padded_batch(documents: Sequence[Document], *, padding_id: int, separate: bool) -> MicroBatch:
    """A row for each document, all as long as the longest.

    separate: padding is a document of its own, for a model in which a token is not blind to what
    follows it. Else nothing says where it begins.
    """
    lengths = [len(document.ids) for document in documents] or [0]
    width = aligned(max([1, *lengths]))
    shape = (len(lengths), width)
    ids, labels = np.full(shape, padding_id, np.int32), np.full(shape, IGNORED, np.int32)
    source, sample = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, document in enumerate(documents):
        length = len(document.ids)
        ids[row, :length], source[row], sample[row] = document.ids, document.source, document.sample
        labels[row, :length] = shifted(document.labels)
    batch = _batch(ids, labels, source, sample)
    if separate:
        starts = [row * width + part for row, n in enumerate(lengths) for part in {0, n % width}]
        batch["cu_seqlens"] = torch.tensor([*sorted(starts), ids.size], dtype=torch.int32)
        batch["max_seqlen"] = width
    return batch


def shifted(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Labels [L] of the tokens that predict them: nothing predicts the first."""
    return np.append(labels[1:], IGNORED)


def aligned(length: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def _batch(
    ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], source: Ints, sample: Ints
) -> MicroBatch:
    places = np.flatnonzero(labels != IGNORED)
    return MicroBatch(
        input_ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        source=torch.from_numpy(source),
        samples=torch.from_numpy(sample),
        # One place at least, whose label then does not count: kernels want a row.
        target_places=torch.from_numpy(places if len(places) else np.zeros(1, np.int64)),
    )
