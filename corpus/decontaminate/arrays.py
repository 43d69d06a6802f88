"""Arrays of an index: n-grams with their questions, and how many of them a text must have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corpus.decontaminate.questions import ContaminationConfig
from corpus.decontaminate.tokens import Hashes, Places, ngrams

Shares = npt.NDArray[np.float64]

MAX_SHARED = 12
"""An n-gram in more questions of a benchmark than this is too common and is not looked for."""
NEEDED = (0.25, 0.35)
"""Share of a stem's n-grams that a stretch of a text has before it is aligned with it: of a short
stem, of which a page header takes more, and of a long one."""
NEEDED_WORDS = 0.25
"""The same where a token is a word: a misprint changes all of it."""
SIBLING_NGRAM = 5
"""Tokens of the n-grams by which siblings are recognised: short, to fit between two differences."""
SIBLING_SHARE = 0.15
"""Share of a stem's n-grams in other stems above which a question has siblings."""

_SALT = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that its multiples by the number of a benchmark are all different."""

NEVER = np.iinfo(np.int32).max
"""Need of a question that is not looked for."""


@dataclass(frozen=True)
class Arrays:
    """Content of an index as numpy arrays."""

    grams: Hashes
    """Sorted hashes of n-grams."""
    starts: Places
    """n-gram -> its first entry in `owners`; one more at the end."""
    owners: npt.NDArray[np.int32]
    """Questions that contain it."""
    needs: npt.NDArray[np.int32]
    """Question -> n-grams of it that a text must have before it is worth a closer look."""
    least: Shares
    """Question -> overlap from which a text contains it."""
    stems: Hashes
    """Tokens of all stems, one after the other."""
    stem_starts: Places
    """Question -> its first token in `stems`; one more at the end."""
    widths: npt.NDArray[np.int32]
    """Question -> tokens of a stretch in which its n-grams are counted together."""
    spaced: npt.NDArray[np.bool_]
    """Question -> True if its language has blanks between words."""
    own: npt.NDArray[np.bool_]
    """Token of `stems` -> True if it tells a question from its siblings."""


def arranged(
    hashes: list[Hashes],
    stems: list[Hashes],
    grams_of_stem: Places,
    spaced: npt.NDArray[np.bool_],
    least: Shares,
    own: list[npt.NDArray[np.bool_]],
    widths: Places,
    min_stem: int,
    benchmarks: Sequence[str],
) -> Arrays:
    """Sort entries by n-gram, without too common ones; a question with no other never matches.

    benchmarks: the benchmark of each question.
    """
    all_hashes = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    all_owners = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(h) for h in hashes])
    order = np.lexsort((all_owners, all_hashes))
    all_hashes, all_owners = all_hashes[order], all_owners[order]
    kept = counts_within(all_hashes, all_owners, benchmarks) <= MAX_SHARED
    grams, sizes = np.unique(all_hashes[kept], return_counts=True)
    stem_starts = np.cumsum([0, *map(len, stems)])
    left = np.bincount(all_owners[kept], minlength=len(hashes))
    long = np.diff(stem_starts) >= min_stem
    shares = np.where(spaced, NEEDED_WORDS, np.where(long, NEEDED[1], NEEDED[0]))
    needs = np.ceil(shares * np.minimum(grams_of_stem, left))
    return Arrays(
        grams=grams,
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        owners=all_owners[kept],
        needs=np.where(left > 0, np.maximum(needs, 1), NEVER).astype(np.int32),
        least=least,
        stems=np.concatenate([*stems, np.zeros(0, np.uint64)]),
        stem_starts=stem_starts,
        widths=widths.astype(np.int32),
        spaced=spaced,
        own=np.concatenate([*own, np.zeros(0, np.bool_)]),
    )


def thresholds(
    stems: list[Hashes], config: ContaminationConfig, benchmarks: Sequence[str]
) -> tuple[Shares, list[npt.NDArray[np.bool_]]]:
    """The overlap that each question must have: more if other stems of its benchmark have a part
    of it. And the tokens of each stem that no sibling has in such a part: none if it has no
    siblings.

    A text that asks another question of the same template agrees in all other tokens.
    """
    every = [np.unique(ngrams(stem, SIBLING_NGRAM), return_inverse=True) for stem in stems]
    grams = [part for part, _ in every]
    sizes = np.array([len(part) for part in grams], np.int64)
    owners = np.repeat(np.arange(len(stems)), sizes)
    counts = counts_within(np.concatenate([*grams, np.zeros(0, np.uint64)]), owners, benchmarks)
    shared = np.bincount(owners, counts > 1, minlength=len(stems))
    sibling = shared > SIBLING_SHARE * sizes
    starts = np.cumsum([0, *sizes])
    own = [np.zeros(len(stem), np.bool_) for stem in stems]
    for number in np.flatnonzero(sibling).tolist():
        common = counts[starts[number] : starts[number + 1]][every[number][1]] > 1
        own[number][:] = True
        for k in range(SIBLING_NGRAM):
            own[number][k : k + len(common)] &= ~common
    least = np.where(sibling, max(config.overlap, config.sibling_overlap), config.overlap)
    return least, own


def counts_within(
    hashes: Hashes, owners: npt.NDArray[np.integer[Any]], benchmarks: Sequence[str]
) -> Places:
    """Count each hash among the questions of its owner's benchmark, [N].

    What is found of a benchmark must not depend on which others are in the index: cleaning, SFT and
    evaluation look for different lists of them.
    """
    names = {name: number for number, name in enumerate(sorted({*benchmarks}))}
    numbers = np.array([names[name] for name in benchmarks], np.uint64)
    salted = hashes ^ (numbers[owners] * _SALT)
    _, inverse, counts = np.unique(salted, return_inverse=True, return_counts=True)
    found: Places = counts[inverse]
    return found
