"""Shingles of texts, and MinHash keys of their bands, a batch of texts at once.

    text ─▶ tokens ─▶ windows of `window_size` tokens ─▶ 64-bit shingles
                               ─▶ minima of permutations (rensa) ─▶ a 64-bit key for each band

Parameters mean what they mean in Data-Juicer's document_minhash_deduplicator. Hashes are others,
with the same probabilities: in a band of R rows two texts have the same key with probability J^R,
J being the Jaccard similarity of their sets of shingles (Broder 1997; bands: Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, section 3.4).
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
import xxhash

# One thread: cleaning's workers are processes, and a forked one lacks its parent's threads.
os.environ.setdefault("RAYON_NUM_THREADS", "1")

from rensa import RMinHash

Hashes = npt.NDArray[np.uint64]
Shingles = npt.NDArray[np.uint64]
"""The distinct shingles of a text, ascending. Two shingles are the same number by chance with a
probability of 2^-64."""

SEED = 42
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(values: Hashes) -> Hashes:
    """Scatter 64-bit numbers (the finaliser of splitmix64, a bijection). Shape [N] -> [N]."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    scattered: Hashes = values ^ (values >> np.uint64(31))
    return scattered


class MinHash:
    """Hashes of texts with the parameters of one deduplicator."""

    def __init__(self, operator: Any) -> None:
        """Take the parameters of a document_minhash_deduplicator."""
        self.bands: int = operator.num_bands
        self.rows: int = operator.num_rows_per_band
        self._lowercase: bool = operator.lowercase
        self._ignored: Any = operator.ignore_pattern
        self._window: int = operator.window_size
        self._tokens = _tokenizer(operator)
        self._table = None
        if self._ignored and self._tokens is None:
            self._table = _ignored_characters(self._ignored.pattern)

    def band_keys(self, texts: Sequence[str]) -> Hashes:
        """A key for each text and band. Shape [N] -> [N, bands]."""
        windows = [self._windows(text) for text in texts]
        if not windows:
            return np.zeros((0, self.bands), np.uint64)
        starts = np.zeros(len(windows) + 1, np.uint64)
        starts[1:] = np.cumsum([len(one) for one in windows])
        minima = np.array(
            RMinHash.digest_matrix_from_flat_token_hashes(
                np.concatenate(windows), starts, self.bands * self.rows, SEED
            ).to_rows(),
            np.uint64,
        )
        keys = np.repeat(np.arange(self.bands, dtype=np.uint64)[None], len(texts), axis=0)
        for row in range(self.rows):
            keys = mix(keys * _FACTOR + minima[:, row :: self.rows])
        return keys

    def shingles(self, text: str) -> Shingles:
        """The set of a text's shingles."""
        return np.unique(self._windows(text))

    def tokens(self, text: str) -> Hashes:
        """A number for each token of a text, in order, as windows are made of them."""
        seen = text.lower() if self._lowercase else text
        if self._ignored and self._table is None:
            seen = self._ignored.sub("", seen)
        return self._numbers(seen)

    def _windows(self, text: str) -> Hashes:
        """Hash of every window, repeated ones included. A short text is a window as a whole."""
        tokens = self.tokens(text)
        num = len(tokens) - self._window + 1
        if num < 1:
            # Texts of which nothing is left are not copies of one another: those hash as they are.
            whole = tokens.tobytes() or text.encode("utf-8", "surrogatepass")
            return np.array([xxhash.xxh3_64_intdigest(whole)], np.uint64)
        hashes = np.zeros(num, np.uint64)
        for at in range(self._window):
            hashes = hashes * _FACTOR + tokens[at : at + num]
        return mix(hashes)

    def _numbers(self, text: str) -> Hashes:
        """A number for each token. Shape [tokens]."""
        if self._tokens is None:
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
            if self._table is not None:
                codes = codes[~self._table[codes]]
            return codes.astype(np.uint64)
        tokens = (token.encode("utf-8", "surrogatepass") for token in self._tokens(text))
        return np.array([xxhash.xxh3_64_intdigest(token) for token in tokens], np.uint64)


def jaccard(first: Shingles, second: Shingles) -> float:
    """Share of the shingles of either text that both have."""
    # Of two ascending arrays merged, those that follow an equal one.
    both = np.concatenate([first, second])
    both.sort(kind="stable")
    common = int((both[1:] == both[:-1]).sum())
    return common / (len(both) - common)


def common_in_order(first: Hashes, second: Hashes) -> float:
    """Share of the longer text's tokens that both have in the same order, others in between.

    The longest common subsequence, by the bits of long integers (Hyyrö 2004): 20,000 tokens against
    as many take 0.05 s.
    """
    places: dict[int, int] = {}
    for at, token in enumerate(first.tolist()):
        places[token] = places.get(token, 0) | 1 << at
    every = (1 << len(first)) - 1
    free = every
    for token in second.tolist():
        taken = free & places.get(token, 0)
        free = (free + taken | free - taken) & every
    return (len(first) - free.bit_count()) / max(1, len(first), len(second))


def _tokenizer(operator: Any) -> Callable[[str], list[str]] | None:
    """A function that cuts a text into tokens; None: its characters are."""
    if operator.tokenization == "character":
        return None
    if operator.tokenization == "space":
        return str.split
    if operator.tokenization == "punctuation":
        split: Callable[[str], list[str]] = regex.compile(r"\p{P}").split
        return split
    return lambda text: list(operator.tokenizer.encode(text, out_type=str))


ONE_CLASS = r"\\[sSwWdD]|\\[pP]\{\w+\}"
ONE_CHARACTER = re.compile(rf"{ONE_CLASS}|\[(?:[^\\\[\]&|~^-]|{ONE_CLASS})+\]")
"""Patterns that match a character whatever stands around it, such as `[\\W_]`."""


@functools.cache
def _ignored_characters(pattern: str) -> npt.NDArray[np.bool_] | None:
    """True for every character that a pattern matches; None if the pattern may look at more.

    To look characters up takes a tenth of the time of substituting them.
    """
    if not ONE_CHARACTER.fullmatch(pattern):
        return None
    table = np.zeros(sys.maxunicode + 1, bool)
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for run in regex.finditer(f"(?:{pattern})+", every):
        table[run.start() : run.end()] = True
    return table
