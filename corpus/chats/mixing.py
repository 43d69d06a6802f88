"""Draws of SFT mixtures (sft_mixture.py): exact, and the same every time.

    set ──read_samples──▶ usable samples of the wanted language and style
        ──fraction, limit──▶ eligible ──pools: ratio to a language──▶ counts ──draw──▶ mixture

A draw without replacement by a seed that names the set: adding a set to a mixture does not change
what is drawn from the others.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corpus.bad_rows import OnBadRow
from corpus.chats.contamination import ContaminationFilter
from corpus.chats.recipes import Mixture

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class MixtureRow:
    """One line of the table of a mixture."""

    set: str
    """Name of the set."""
    usable: int
    """Samples of the wanted language and style."""
    taken: int
    """Samples in the mixture."""
    chinese: int
    """Of these, Chinese."""
    neither: int
    """Of these, neither Chinese nor English."""
    other: int
    """Usable, but of another language or style."""
    skipped: Mapping[str, int]
    """{reason: rows} that cannot be used."""
    malformed: int
    """Of these, rows that are damaged or not of the set's format."""
    contaminated: int
    """Samples that contain a benchmark question."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """{reason: samples} that are wanted and cannot be trained on, such as too long ones."""
    cut: int = 0
    """Samples in the mixture that lose their last turns at `max_length`."""


@dataclass(frozen=True, kw_only=True)
class MixtureFiles:
    """Files of a mixture, and how its sets are read."""

    data: Path
    """Folder with a folder of native files for each set."""
    output: Path
    """The mixture as JSON lines; it appears complete or not at all."""
    quarantine: Path
    """Folder for skipped rows, a file for each set."""
    scratch: Path
    """Working files; sets that were read before an interruption aren't read again."""
    contamination: ContaminationFilter | None = None
    """Finds benchmark questions, and writes them beside `output`; None does not look for any."""
    on_bad_row: OnBadRow = "skip"
    """Action on a malformed row; a sound one that can't be used is always left out."""
    progress: Progress = lambda done, total, what: None
    """Called with (done, total, what)."""


def draw_mixture(
    mixture: Mixture, languages: Mapping[str, str], seed: int
) -> dict[str, Sequence[int]]:
    """Draw the conversations of each set: {set: increasing indices}.

    `languages` holds for each set one letter, z, e or o, a conversation. Sets outside of pools give
    round(fraction x usable) up to `limit`. A pool gives round(ratio x what these hold of its
    language), or all it has if that is less, divided among its sets in proportion to what they
    would give alone (largest remainders first).
    """
    eligible: dict[str, int] = {}
    for name, letters in languages.items():
        share = mixture.sets[name]
        wanted = math.floor(len(letters) * share.fraction + 0.5)
        eligible[name] = wanted if share.limit is None else min(wanted, share.limit)
    drawn: dict[str, Sequence[int]] = {}
    for name, letters in languages.items():
        if not mixture.sets[name].pool:
            drawn[name] = draw(len(letters), eligible[name], f"{seed}/{name}")
    for pool_name, pool in mixture.pools.items():
        letter = pool.to[0]
        reference = sum(
            languages[name][i] == letter
            for name, indices in drawn.items()
            if not mixture.sets[name].pool
            for i in indices
        )
        members = {n: eligible[n] for n in languages if mixture.sets[n].pool == pool_name}
        target = min(math.floor(pool.ratio * reference + 0.5), sum(members.values()))
        for name, count in apportion(target, members).items():
            drawn[name] = draw(len(languages[name]), count, f"{seed}/{name}")
    return {name: drawn[name] for name in languages}


def draw(available: int, count: int, seed: str) -> Sequence[int]:
    """`count` different numbers below `available`, in increasing order."""
    if count >= available:
        return range(available)
    return sorted(random.Random(seed).sample(range(available), count))


def apportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` in proportion to `sizes`, in whole numbers that add up to it exactly.

    Largest remainders first; on a tie the earlier name. No share exceeds its size; `total` must not
    exceed their sum.
    """
    everything = sum(sizes.values())
    assert 0 <= total <= everything
    if not everything:
        return dict.fromkeys(sizes, 0)
    shares = {name: total * size // everything for name, size in sizes.items()}
    remainders = sorted(sizes, key=lambda name: -(total * sizes[name] % everything))
    for name in remainders[: total - sum(shares.values())]:
        shares[name] += 1
    return shares
