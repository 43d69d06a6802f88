"""Pairs as micro-batches: both answers behind their prompt, each a document of its own.

    P P P C C C .     P prompt, C chosen, R rejected, . end token: C, R and . are targets
    P P P R R R .

In rows the documents of a pair follow each other, pair by pair, so the targets of a micro-batch are
those of pair 0's chosen answer, of its rejected one, of pair 1's chosen answer …

P = pairs, A = 2 P answers, N = targets.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from model.data import MicroBatch
from model.data.dataset import IGNORED
from model.train.finetune.batches import Document
from model.train.finetune.preferences.prepare import PreferencePairs


class PairBatch(MicroBatch, total=False):
    """A micro-batch of pairs: `source` and `samples` are of pairs, int64 [P]."""

    answer_lengths: Tensor
    """int64 [A], targets of each answer, at least 1."""
    reference: Tensor
    """fp32 [N], log-probability of each target under the reference."""


def documents_of(pairs: PreferencePairs, pair: int) -> list[Document]:
    """The two documents of a pair, chosen first."""
    prompt, *answers = pairs[pair]
    found = []
    for answer in answers:
        ids = np.concatenate([prompt, answer]).astype(np.int64)
        labels = ids.copy()
        labels[: len(prompt)] = IGNORED
        found.append(Document(ids, labels, int(pairs.name[pair]), pair))
    return found


def pair_batch(rows: MicroBatch, pairs: PreferencePairs, numbers: Sequence[int]) -> PairBatch:
    """Say of rows with the documents of these pairs which pairs they are."""
    chosen = np.asarray(numbers, np.int64)
    batch = cast("PairBatch", {**rows})
    batch["source"] = torch.from_numpy(pairs.name[chosen])
    batch["samples"] = torch.from_numpy(chosen)
    batch["answer_lengths"] = torch.from_numpy(pairs.parts[chosen, 1:].flatten())
    return batch


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
