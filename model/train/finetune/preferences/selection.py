"""The pairs of a training: what says something, what is held out, and languages at their ratio.

    usable pairs ──without a reason to leave them out──▶ said once ──▶ held out? ─▶ validation
                                                                          └─▶ draw 4:1 ─▶ trained on

The ratio is drawn last, from pairs that nothing removes any more, so it holds exactly for those
that are trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from model.data.permutation import Ints, Permutation

REPEATED = "the same pair as an earlier one"
CONTRADICTED = "another row prefers the other answer"

TRAINED, HELD_OUT, NOT_DRAWN = "train", "validation", "not drawn"


@dataclass(frozen=True, kw_only=True)
class PairNames:
    """Names of a pair (encoding.py), and where it is from."""

    pair: str
    """Of prompt, chosen and rejected answer."""
    swapped: str
    """Of the pair with its answers exchanged."""
    digest: int
    """64 bits of the prompt, by which the pair is held out or not."""
    language: str
    """zh, en, or another one."""


def without_repeats(names: Sequence[PairNames], reasons: Sequence[str]) -> list[str]:
    """The reasons to leave pairs out, completed: repeated ones, and those that contradict others.

    Two rows that prefer opposite answers to one prompt say nothing together: both are left out.
    """
    standing = {n.pair for n, reason in zip(names, reasons, strict=True) if not reason}
    seen: set[str] = set()
    found = []
    for name, reason in zip(names, reasons, strict=True):
        if not reason and name.swapped in standing:
            reason = CONTRADICTED
        elif not reason and name.pair in seen:
            reason = REPEATED
        if not reason:
            seen.add(name.pair)
        found.append(reason)
    return found


def draw_pairs(
    languages: Sequence[str], *, chinese_per_english: int, limit: int | None, seed: int
) -> list[int]:
    """Numbers of the pairs that are trained on, increasing.

    languages: of each pair. chinese_per_english: exactly so many Chinese pairs for an English one;
    0 takes pairs of all languages as they come. limit: at most so many.

    Raises DataError when a language has too few for a single unit of the ratio.
    """
    if not chinese_per_english:
        return _draw(range(len(languages)), limit or len(languages), f"{seed}/all")
    places = {
        language: [at for at, found in enumerate(languages) if found == language]
        for language in ("zh", "en")
    }
    sizes = balance(len(places["zh"]), len(places["en"]), chinese_per_english, limit)
    return sorted(
        at
        for language, size in sizes.items()
        for at in _draw(places[language], size, f"{seed}/{language}")
    )


def balance(
    chinese: int, english: int, chinese_per_english: int, limit: int | None
) -> Mapping[str, int]:
    """Number of pairs to take of each language: as many as the ratio and the limit allow.

    Raises DataError when a language has too few for a single unit of the ratio.
    """
    ratio = chinese_per_english
    units = min(english, chinese // ratio)
    if limit is not None:
        units = min(units, limit // (ratio + 1))
    if not units:
        raise DataError(
            f"dpo: {chinese} Chinese and {english} English pairs cannot be mixed {ratio}:1. Add a "
            "set of the missing language, raise max_length if pairs were left out for their "
            "length, or set chinese_per_english: 0 to take what there is"
        )
    return {"zh": ratio * units, "en": units}


def _draw(places: Sequence[int], size: int, name: str) -> list[int]:
    if size >= len(places):
        return list(places)
    first: Ints = np.arange(size)
    order = Permutation(len(places), "pairs", name)(first)
    return sorted(places[int(at)] for at in order)
