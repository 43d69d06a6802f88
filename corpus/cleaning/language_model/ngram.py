"""An n-gram language model with interpolated, modified Kneser-Ney smoothing, as an ARPA file.

Notation: h a context (the words before), h' the context without its first word, c(hw) the count of
w after h, adjusted below the highest order to the number of different words that precede hw.

    p(w|h) = max(c(hw) - D(c(hw)), 0) / sum_w c(hw)  +  gamma(h) p(w|h')
    gamma(h) = 1 - (what the first term adds up to over w)

D(1), D(2), D(3+) come from the counts of counts. Below the unigrams stands the uniform distribution
over the vocabulary with `<unk>`. Source: Chen and Goodman 1999 (An Empirical Study of Smoothing
Techniques for Language Modeling), section 3; ARPA as KenLM reads it.

n-grams are packed into 64-bit integers, so counting is sorting: no dictionary grows with the text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

MAX_ORDER = 3
BITS = 64 // MAX_ORDER
"""Bits per word in a packed n-gram: vocabularies of up to 2,097,151 words."""

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

_WORD = np.uint64((1 << BITS) - 1)
_SHIFT = np.uint64(BITS)
BOS, EOS = 1, 2
"""Word ids of `<s>` and `</s>`; 0 is `<unk>`."""
FIRST_WORD = 3


@dataclass(frozen=True, kw_only=True)
class NgramTable:
    """All n-grams of one order, sorted by their packed key."""

    keys: Keys
    """Packed n-grams, the last word lowest. Shape [N]."""
    probability: Floats
    """p(last word | the words before). Shape [N]."""
    backoff: Floats
    """gamma of the whole n-gram as a context; 1 where it is none. Shape [N]."""


class NgramModel:
    """Count sentences, then `estimate()` the tables, then `write_arpa()`."""

    def __init__(self, order: int) -> None:
        assert 2 <= order <= MAX_ORDER, order
        self.order = order
        self.words: dict[str, int] = {}
        self._ids: list[npt.NDArray[np.uint64]] = []

    def add(self, sentence: Sequence[str]) -> None:
        """Count one sentence, given as its words."""
        words = self.words
        ids = [BOS, *(words.setdefault(w, len(words) + FIRST_WORD) for w in sentence), EOS]
        self._ids.append(np.array(ids, dtype=np.uint64))

    @property
    def num_words(self) -> int:
        """Words counted so far, sentence ends included."""
        return sum(len(ids) - 1 for ids in self._ids)

    def estimate(self) -> list[NgramTable]:
        """Tables of order 1 to `order`. Raises ValueError when nothing was counted."""
        if not self.words:
            raise ValueError("no text to estimate a language model from")
        counts = self._adjusted_counts()
        tables: list[NgramTable] = []
        vocabulary = len(self.words) + 2  # with <unk> and </s>; <s> is never predicted
        lower_keys = np.array([], dtype=np.uint64)
        lower = np.array([], dtype=np.float64)
        for n, (keys, count) in enumerate(counts, start=1):
            context, inverse = np.unique(keys >> _SHIFT, return_inverse=True)
            total = np.bincount(inverse, weights=count, minlength=len(context))
            discounted = np.maximum(count - _discounts(count)[np.minimum(count, 3) - 1], 0.0)
            kept = discounted / total[inverse]
            gamma = np.maximum(1.0 - np.bincount(inverse, weights=kept, minlength=len(context)), 0)
            if n == 1:
                shorter = np.full(len(keys), 1.0 / vocabulary)
                unknown = float(gamma[0]) / vocabulary
                # <unk> takes the leftover, <s> a place without probability: ARPA wants both.
                keys = np.concatenate([np.array([0, BOS], dtype=np.uint64), keys])
                probability = np.concatenate([[unknown, 0.0], kept + gamma[inverse] * shorter])
            else:
                suffix = keys & np.uint64((1 << (BITS * (n - 1))) - 1)
                shorter = lower[np.searchsorted(lower_keys, suffix)]
                probability = kept + gamma[inverse] * shorter
                backoff = tables[-1].backoff
                backoff[np.searchsorted(lower_keys, context)] = gamma
            tables.append(
                NgramTable(keys=keys, probability=probability, backoff=np.ones(len(keys)))
            )
            lower_keys, lower = keys, probability
        return tables

    def _adjusted_counts(self) -> list[tuple[Keys, npt.NDArray[np.int64]]]:
        """For each order its n-grams, sorted, with their adjusted counts."""
        ids = np.concatenate(self._ids)
        starts = ids == BOS
        raw: list[tuple[Keys, npt.NDArray[np.int64]]] = []
        packed = ids.copy()
        crosses = np.zeros(len(ids), dtype=bool)  # n-grams that reach into the next sentence
        for n in range(1, self.order + 1):
            if n > 1:
                packed = (packed[:-1] << _SHIFT) | ids[n - 1 :]
                crosses = crosses[:-1] | starts[n - 1 :]
            raw.append(np.unique(packed[~crosses], return_counts=True))
        adjusted: list[tuple[Keys, npt.NDArray[np.int64]]] = []
        for n in range(1, self.order + 1):
            keys, count = raw[n - 1]
            if n < self.order:
                # How many different words precede it; nothing precedes the start of a sentence.
                longer = raw[n][0] & np.uint64((1 << (BITS * n)) - 1)
                preceded, before = np.unique(longer, return_counts=True)
                count = count.copy()
                first = keys >> np.uint64(BITS * (n - 1))
                inside = np.flatnonzero(first != BOS)
                count[inside] = before[np.searchsorted(preceded, keys[inside])]
            if n == 1:
                keys, count = keys[keys != BOS], count[keys != BOS]
            adjusted.append((keys, count.astype(np.int64)))
        return adjusted

    def write_arpa(self, file: IO[bytes], tables: Iterable[NgramTable]) -> None:
        """Write the tables as a text ARPA file."""
        tables = list(tables)
        names = ["<unk>", "<s>", "</s>", *self.words]
        file.write(b"\\data\\\n")
        for n, table in enumerate(tables, start=1):
            file.write(f"ngram {n}={len(table.keys)}\n".encode())
        for n, table in enumerate(tables, start=1):
            file.write(f"\n\\{n}-grams:\n".encode())
            columns = [
                ((table.keys >> np.uint64(BITS * (n - 1 - i))) & _WORD).tolist() for i in range(n)
            ]
            with np.errstate(divide="ignore"):
                logs = np.maximum(np.log10(table.probability), -99.0).tolist()
                backoffs = np.maximum(np.log10(table.backoff), -99.0).tolist()
            last = n == len(tables)
            for row, (log, backoff) in enumerate(zip(logs, backoffs, strict=True)):
                words = " ".join(names[column[row]] for column in columns)
                tail = "" if last else f"\t{backoff:.6g}"
                file.write(f"{log:.6g}\t{words}{tail}\n".encode())
        file.write(b"\n\\end\\\n")


def _discounts(count: npt.NDArray[np.int64]) -> Floats:
    """D(1), D(2), D(3+) of one order from its counts of counts."""
    n1, n2, n3, n4 = (int(np.count_nonzero(count == k)) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.5, 1.0, 1.5])  # too little text to estimate them
    y = n1 / (n1 + 2 * n2)
    estimated = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    # Counts of counts of odd corpora (every document twice) can leave the range they make sense in.
    return np.array([min(max(d, 0.05), k - 0.05) for k, d in enumerate(estimated, start=1)])
