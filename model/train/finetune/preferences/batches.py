"""Pairs as micro-batches: both answers behind their prompt, each a document of its own.

    packed   P P P C C C . P P P R R R . P P …    one row, no padding; documents apart in
             ──────┬────── ──────┬────── ───      attention and routing (cu_seqlens)
    padded   P P P C C C .                        one row an answer, for an architecture that
             P P P R R R .                        cannot be told where documents begin

             P prompt, C chosen, R rejected, . end token

The answers' tokens are targets. They follow in one order either way: pair by pair, chosen first.

P = pairs, A = 2 P answers, T = places of all rows, N = targets.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.dataset import IGNORED
from model.train.finetune.preferences.prepare import PreferencePairs


class PairBatch(TypedDict, total=False):
    """A micro-batch of pairs."""

    input_ids: Tensor
    """int32 [1, T] packed, [A, T / A] padded on the right."""
    labels: Tensor
    """int32, as input_ids, already shifted: IGNORED where the next token is part of no answer."""
    target_places: Tensor
    """int64 [N], places among the T whose label counts."""
    answer_lengths: Tensor
    """int64 [A], targets of each answer, at least 1."""
    source: Tensor
    """int64 [P], number of each pair's set."""
    samples: Tensor
    """int64 [P], number of each pair."""
    reference: Tensor
    """fp32 [N], log-probability of each target under the reference."""
    cu_seqlens: Tensor
    """Packed: int32 [A + 1], where each document begins, and the end of the last."""
    max_seqlen: int
    """Packed: tokens of the longest document."""


def pair_batch(
    pairs: PreferencePairs, numbers: Sequence[int], *, packed: bool, padding: int
) -> PairBatch:
    """Make a micro-batch of the pairs with these numbers.

    padding: id of the places behind a padded answer, which nothing sees.
    """
    documents, labels, lengths = [], [], []
    for number in numbers:
        prompt, *answers = pairs[number]
        for answer in answers:
            ids = np.concatenate([prompt, answer])
            goal = np.full(len(ids), IGNORED, np.int32)
            goal[len(prompt) - 1 : -1] = answer
            documents.append(ids)
            labels.append(goal)
            lengths.append(len(answer))
    sizes = np.array([len(ids) for ids in documents], np.int64)
    if packed:
        rows = np.concatenate(documents)[None], np.concatenate(labels)[None]
    else:
        rows = _padded(documents, sizes.max(), padding), _padded(labels, sizes.max(), IGNORED)
    batch: PairBatch = {
        "input_ids": torch.from_numpy(rows[0]),
        "labels": torch.from_numpy(rows[1]),
        "target_places": torch.from_numpy(np.flatnonzero(rows[1] != IGNORED)),
        "answer_lengths": torch.tensor(lengths),
        "source": torch.from_numpy(pairs.set[np.asarray(numbers)]),
        "samples": torch.tensor(numbers),
    }
    if packed:
        batch["cu_seqlens"] = torch.from_numpy(np.cumsum([0, *sizes], dtype=np.int32))
        batch["max_seqlen"] = int(sizes.max())
    return batch


def _padded(
    rows: Sequence[npt.NDArray[np.int32]], length: int, value: int
) -> npt.NDArray[np.int32]:
    padded = np.full((len(rows), length), value, np.int32)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


class AnswerSums(NamedTuple):
    """Log-probabilities of answers, summed over their tokens, fp32 [P]."""

    chosen: Tensor
    rejected: Tensor


def sum_by_answer(log_probs: Tensor, answer_lengths: Tensor) -> AnswerSums:
    """Sums over the tokens of each answer: fp32 [N], int64 [A] that adds up to N.

    Added in order, without atomic additions: the same bits each time.
    """
    sums: Tensor = torch.segment_reduce(log_probs, "sum", lengths=answer_lengths, axis=0)
    return AnswerSums(sums[0::2], sums[1::2])
