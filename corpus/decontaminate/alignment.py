"""Alignment of a part of a question with a stretch of a text, whatever stands in between.

    question   我 国 人 口 的 地 理 分 ─────────── 界 线 是 下 列 的
    text       我 国 人 口 的 地 理 分 第 12 页 … 界 线 是 下 列 的

Runs of tokens that agree are chained in the order of the question; a gap in the text may be as long
as a page header, a token between two runs may be another one (a misprint).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.decontaminate.tokens import Hashes, Places

GAP = 80
"""Tokens of a text that may stand between two runs: a page header and a footer."""
SHORTEST = 2
"""Tokens of a run; what agrees alone counts only beside a run, at the same distance."""
BESIDE = 3
"""Tokens beside a run in which others may agree."""
JOINT = 1.0
"""Cost of a joint between two runs, in tokens: a run of two that stands elsewhere adds one."""
MOST_RUNS = 400
"""Runs that are chained, the longest ones; a text of one repeated word has more."""


@dataclass(frozen=True)
class Alignment:
    """Tokens of a part that a text contains, in order."""

    covered: npt.NDArray[np.bool_]
    """True for each token of the part that is there."""
    places: Places
    """Token of the text at which each is, -1 for none."""

    @property
    def first(self) -> int:
        """The first token of the text that belongs to it."""
        return int(self.places[self.covered][0])

    @property
    def last(self) -> int:
        """The token after the last one."""
        return int(self.places[self.covered][-1]) + 1

    @property
    def share(self) -> float:
        """Share of the part's tokens that are there."""
        return float(self.covered.mean())


def align(part: Hashes, text: Hashes) -> Alignment | None:
    """Align a part of a question with a text; None if no two tokens in a row agree.

    Args:
        part: hashes of the part's tokens. One of a single token must agree as it is.
        text: hashes of the tokens of the text, a few times as many.
    """
    size = len(part)
    i, j = _pairs(part, text)
    if not len(i):
        return None
    shift = j - i
    order = np.lexsort((i, shift))
    i, j, shift = i[order], j[order], shift[order]
    begins = np.flatnonzero(np.append(True, (np.diff(shift) != 0) | (np.diff(i) != 1)))
    lengths = np.diff(np.append(begins, len(i)))
    long = lengths >= min(SHORTEST, size)
    starts, lengths = begins[long], lengths[long]
    if not len(starts):
        return None
    if len(starts) > MOST_RUNS:
        kept = np.sort(np.argsort(-lengths, kind="stable")[:MOST_RUNS])
        starts, lengths = starts[kept], lengths[kept]
    order = np.lexsort((i[starts], j[starts]))
    starts, lengths = starts[order], lengths[order]
    places = np.full(size, -1, np.int64)
    for run in _chain(i[starts], j[starts], lengths):
        at, there, length = int(i[starts[run]]), int(j[starts[run]]), int(lengths[run])
        places[at : at + length] = np.arange(there, there + length)
    _add_beside(places, part, text)
    return Alignment(places >= 0, places)


def _pairs(part: Hashes, text: Hashes) -> tuple[Places, Places]:
    """Places of equal tokens: in the part, in the text."""
    order = np.argsort(part, kind="stable")
    ordered = part[order]
    low = np.searchsorted(ordered, text, side="left")
    counts = np.searchsorted(ordered, text, side="right") - low
    there = np.repeat(np.arange(len(text)), counts)
    inner = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(low, counts) + inner], there


def _chain(i: Places, j: Places, lengths: Places) -> list[int]:
    """The runs of the chain that covers most, in order: earlier in the text, and in the part."""
    best = lengths.astype(np.float64)
    before = np.full(len(i), -1)
    for run in range(1, len(i)):
        overlap = np.maximum(i[:run] + lengths[:run] - i[run], j[:run] + lengths[:run] - j[run])
        gain = lengths[run] - np.maximum(overlap, 0)
        allowed = (i[:run] < i[run]) & (j[:run] < j[run]) & (gain > 0)
        allowed &= j[run] - (j[:run] + lengths[:run]) <= GAP
        if not allowed.any():
            continue
        # The same distance again is a misprint between two runs and costs less than a jump.
        joint = np.where(j[:run] - i[:run] == j[run] - i[run], 0.1, JOINT)
        scores = np.where(allowed, best[:run] + gain - joint, -1.0)
        top = int(scores.argmax())
        if scores[top] > best[run]:
            best[run], before[run] = scores[top], top
    chain = [int(best.argmax())]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    return chain[::-1]


def _add_beside(places: Places, part: Hashes, text: Hashes) -> None:
    """Add tokens that agree a little beside a run at the same distance: a misprint lies between."""
    known = np.flatnonzero(places >= 0)
    taken = set(places[known].tolist())
    for at in known.tolist():
        for step in (-1, 1):
            if not 0 <= at + step < len(part) or places[at + step] >= 0:
                continue
            for far in range(1, BESIDE + 1):
                k, there = at + step * far, int(places[at]) + step * far
                if not (0 <= k < len(part) and 0 <= there < len(text)) or places[k] >= 0:
                    break
                if part[k] == text[there] and there not in taken:
                    places[k] = there
                    taken.add(there)
