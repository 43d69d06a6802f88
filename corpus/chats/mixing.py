"""A mixture of SFT sets, drawn exactly and the same every time.

    set ──read_chats──▶ usable conversations of the wanted language and style
        ──fraction, limit──▶ eligible ──pools: ratio to a language──▶ counts ──draw──▶ mixture

A draw without replacement from each set, by a seed that names the set: adding a set to a mixture
does not change what is drawn from the others.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import complete_file, json_line, write_json
from corpus.chats.reading import SetAside, read_chats
from corpus.chats.recipes import Mixture, MixtureSet
from corpus.chats.screening import Screen, found_file


@dataclass(frozen=True, kw_only=True)
class SetTally:
    """What was found in a set."""

    languages: str
    """One letter, z or e, for each usable conversation, in order."""
    other: int
    """Usable, but of another language or answer style than the mixture wants."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """{reason: rows} that cannot be used."""
    contaminated: int = 0
    """Conversations of the wanted language and style that contain an evaluation question."""


@dataclass(frozen=True, kw_only=True)
class MixtureRow:
    """One line of the table of a mixture."""

    set: str
    """Name of the set."""
    usable: int
    """Conversations of the wanted language and style."""
    taken: int
    """Conversations in the mixture."""
    chinese: int
    """Of these, Chinese."""
    other: int
    """Usable, but of another language or style."""
    set_aside: Mapping[str, int]
    """{reason: rows} that cannot be used."""
    contaminated: int
    """Conversations that contain an evaluation question."""


def build_mixture(
    mixture: Mixture,
    data: Path,
    *,
    output: Path,
    quarantine: Path,
    scratch: Path,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    screen: Screen | None = None,
) -> list[MixtureRow]:
    """Write the mixture's conversations as JSON lines {messages, set, language, style}.

    Args:
        mixture: its recipe.
        data: folder with a folder of native files for each set.
        output: the file to write; it appears complete or not at all.
        quarantine: folder for rows that were set aside, a file for each set.
        scratch: working files; sets that were read before an interruption aren't read again.
        seed: of the draws.
        progress: is told (done, total, what).
        screen: looks for evaluation questions; None does not look.

    Raises ConfigError for a bad recipe, DataError when a set's files aren't there.
    """
    shares = {name: share for name, share in mixture.sets.items() if share.fraction > 0}
    tallies: dict[str, SetTally] = {}
    for position, (name, share) in enumerate(shares.items()):
        progress(position, len(shares) + 1, f"reading {name}")
        tallies[name] = _gather(data / name, name, share, scratch, quarantine, screen)
    drawn = draw_mixture(mixture, {name: t.languages for name, t in tallies.items()}, seed)
    progress(len(shares), len(shares) + 1, "drawing the mixture")
    with complete_file(output) as file:
        for name, indices in drawn.items():
            for line in _picked(scratch / f"{name}.jsonl", indices):
                file.write(line)
    return [
        MixtureRow(
            set=name,
            usable=len(tally.languages),
            taken=len(drawn[name]),
            chinese=sum(tally.languages[i] == "z" for i in drawn[name]),
            other=tally.other,
            set_aside=tally.set_aside,
            contaminated=tally.contaminated,
        )
        for name, tally in tallies.items()
    ]


def draw_mixture(
    mixture: Mixture, languages: Mapping[str, str], seed: int
) -> dict[str, Sequence[int]]:
    """Which conversations of each set to take: {set: increasing indices}.

    `languages` holds for each set one letter, z or e, a conversation. Sets outside of pools give
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


def _gather(
    folder: Path,
    name: str,
    share: MixtureSet,
    scratch: Path,
    quarantine: Path,
    screen: Screen | None,
) -> SetTally:
    """Write a set's usable conversations to scratch, and what is set aside to quarantine."""
    tally_path = scratch / f"{name}.tally.json"
    if tally_path.exists():
        return SetTally(**json.loads(tally_path.read_text(encoding="utf-8")))
    letters: list[str] = []
    reasons: Counter[str] = Counter()
    other = contaminated = 0
    aside = quarantine / f"{name}.jsonl"
    with (
        complete_file(scratch / f"{name}.jsonl") as file,
        complete_file(aside) as bad,
        complete_file(found_file(scratch, name)) as found,
    ):
        for item in read_chats(folder, name):
            if isinstance(item, SetAside):
                reasons[item.reason] += 1
                bad.write(json_line(vars(item)))
            elif not _wanted(item.language, item.chat.style, share):
                other += 1
            else:
                if screen is not None:
                    rows = screen.rows(
                        (message["content"] for message in item.chat.messages),
                        f"{name}/{item.place}",
                    )
                    found.writelines(map(json_line, rows))
                    contaminated += bool(rows)
                    if rows and screen.drop:
                        continue
                letters.append(item.language[0])
                line: dict[str, Any] = {
                    "messages": item.chat.messages,
                    "set": name,
                    "language": item.language,
                    "style": item.chat.style,
                }
                file.write(json_line(line))
    if not reasons:
        aside.unlink()
    tally = SetTally(
        languages="".join(letters),
        other=other,
        set_aside=dict(sorted(reasons.items())),
        contaminated=contaminated,
    )
    write_json(tally_path, vars(tally))
    return tally


def _wanted(language: str, style: str, share: MixtureSet) -> bool:
    right_language = share.language in ("any", language)
    return right_language and (not share.styles or style in share.styles)


def _picked(path: Path, indices: Sequence[int]) -> Iterator[bytes]:
    """The lines of a file at increasing indices."""
    wanted = iter(indices)
    next_one = next(wanted, None)
    with path.open("rb") as file:
        for index, line in enumerate(file):
            if next_one is None:
                return
            if index == next_one:
                yield line
                next_one = next(wanted, None)
