"""Boundaries of documents inside of blocks, and the labels that begin one, from shards' indices.

    shard   … 7 7 # 4 4 4 4 # 9 9 #  5 5 …      # ends a document; the index holds the starts
    block         [4 4 4 # 9 9 # 5] 5           L inputs and one more token, which is only a label
    positions      0 1 2 3 0 1 2 0              a row counts from 0, whatever was before it
    cu_seqlens     0       4     7  8           over the flattened rows of a micro-batch
    labels         4 4 # - 9 # - 5              - nothing predicts the first token of a document

k = rows, L = sequence length, m = documents that begin inside of a row, n = labels that are the
first token of a document. A document that begins at a row's first token, or at the token after its
inputs, adds no boundary; in the second case the row's last label begins it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model.data.permutation import Ints


@dataclass(frozen=True)
class Boundaries:
    """Starts of sequences in k rows of L tokens."""

    offsets: Ints
    """Ascending, [k + m + 1]: each row's start, each document's start, and last k * L."""
    sequence_length: int
    """L."""
    first_labels: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Labels that are the first token of a document, places in k * L flattened labels, [n]."""

    def positions(self) -> npt.NDArray[np.int32]:
        """Position of each token in its document or row, int32 [k, L]."""
        begins = np.repeat(self.offsets[:-1].astype(np.int32), np.diff(self.offsets))
        positions = np.subtract(_count(begins.size), begins, out=begins)
        return positions.reshape(-1, self.sequence_length)

    def of_rows(self, begin: int, end: int) -> npt.NDArray[np.int32]:
        """`cu_seqlens` of the rows [begin, end) alone, int32 [sequences + 1]."""
        first, last = begin * self.sequence_length, end * self.sequence_length
        low, high = np.searchsorted(self.offsets, [first, last])
        return (self.offsets[low : high + 1] - first).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _count(size: int) -> npt.NDArray[np.int32]:
    """0 … size - 1, made once: a new array of this size costs more than the work on it."""
    numbers = np.arange(size, dtype=np.int32)
    numbers.flags.writeable = False
    return numbers


def boundaries(
    indices: Sequence[Ints], which: Ints, starts: Ints, sequence_length: int
) -> Boundaries:
    """Boundaries of some blocks, and their labels that begin a document.

    Args:
        indices: document starts of each shard in question, int64, ascending; may be memory-mapped:
            a look-up reads a few pages of it.
        which: index into `indices` of each row, [k].
        starts: first token of each row in its shard, [k].
        sequence_length: L.
    """
    rows = np.arange(which.size, dtype=np.int64)
    found: list[Ints] = [np.empty(0, dtype=np.int64)]
    for number, index in enumerate(indices):
        mine = np.flatnonzero(which == number) if len(indices) > 1 else rows
        first = starts[mine]
        low = np.searchsorted(index, first, side="right")
        counts = np.searchsorted(index, first + sequence_length, side="right") - low
        # Entries low[i] … low[i] + counts[i] - 1 of the index, for every row i, in one go.
        ends = np.cumsum(counts)
        entries = np.arange(counts.sum()) + np.repeat(low - (ends - counts), counts)
        found.append(index[entries] + np.repeat(mine * sequence_length - first - 1, counts))
    first_labels = np.concatenate(found)
    # The token behind a label is the input at the next place, unless the row ends there.
    begins = first_labels + 1
    row_starts = np.arange(which.size + 1, dtype=np.int64) * sequence_length
    offsets = np.concatenate([row_starts, begins[begins % sequence_length != 0]])
    offsets.sort()
    return Boundaries(offsets, sequence_length, first_labels)
