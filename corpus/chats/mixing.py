"""Draws of SFT mixtures (sft_mixture.py) and preference sets: exact, and the same every time.

    set ──read_samples──▶ usable samples of the wanted language and style
        ──fraction, limit──▶ eligible ──pools: ratio to a language──▶ counts ──draw──▶ mixture

A draw without replacement by a seed that names the set (for preferences: the language): adding a
set to an SFT mixture does not change what is drawn from the others.
"""

import math
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.config import from_json
from common.errors import DataError
from common.files import complete_file, json_line, write_json
from corpus.bad_rows import OnBadRow, refuse_bad_rows
from corpus.chats.contamination import MATCHES_FILE, ContaminationFilter
from corpus.chats.language import Language
from corpus.chats.messages import Chat
from corpus.chats.reading import BAD_ROW_REMEDY, Sample, read_samples
from corpus.chats.recipes import Mixture, MixtureSet, SetKind
from corpus.chats.rows import SkippedRow

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class SetReading:
    """Counts of a set that was read."""

    languages: str
    """One letter, z, e or o (another one), for each usable sample, in order."""
    other: int
    """Usable, but of another language or answer style than the mixture wants."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """{reason: rows} that cannot be used."""
    malformed: int = 0
    """Of these, rows that are damaged or not of the set's format."""
    contaminated: int = 0
    """Samples of the wanted language and style that contain a benchmark question."""


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


def build_preferences(
    names: Sequence[str],
    files: MixtureFiles,
    *,
    chinese_per_english: int,
    limit: int | None,
    seed: int,
) -> list[MixtureRow]:
    """Write preference pairs as lines {prompt, chosen, rejected, set, language}, Chinese first.

    Args:
        names: recipes in data_recipes/preferences.
        files: where everything is.
        chinese_per_english: Chinese pairs for each English one, exactly; 0 takes all there are.
        limit: at most so many pairs.
        seed: of the draws.

    Raises DataError when a set's files aren't there or a language has too few pairs.
    """
    sets = _read_sets("preferences", dict.fromkeys(names, MixtureSet()), files)
    places: dict[Language, list[tuple[str, int]]] = {"zh": [], "en": []}
    for name, of_set in sets.items():
        for index, letter in enumerate(of_set.languages):
            if letter in "ze":  # the ratio is one of these two languages; others are left out
                places["zh" if letter == "z" else "en"].append((name, index))
    sizes = balance(len(places["zh"]), len(places["en"]), chinese_per_english, limit)
    picks = []
    for language, size in sizes.items():
        drawn = [
            places[language][i] for i in draw(len(places[language]), size, f"{seed}/{language}")
        ]
        picks += [(name, [index for of, index in drawn if of == name]) for name in sets]
    return _write(files, sets, picks)


def balance(
    chinese: int, english: int, chinese_per_english: int, limit: int | None
) -> dict[Language, int]:
    """Number of pairs to take of each language: as many as the ratio and the limit allow.

    Raises DataError when a language has too few for a single unit of the ratio.
    """
    ratio = chinese_per_english
    if ratio == 0:
        total = min(chinese + english, limit) if limit else chinese + english
        of_chinese = total * chinese // max(1, chinese + english)
        return {"zh": of_chinese, "en": min(english, total - of_chinese)}
    units = min(english, chinese // ratio)
    if limit is not None:
        units = min(units, limit // (ratio + 1))
    if not units:
        raise DataError(
            f"dpo: {chinese} Chinese and {english} English pairs cannot be mixed {ratio}:1. Add a "
            "set of the missing language, or set chinese_per_english: 0 to take what there is"
        )
    return {"zh": ratio * units, "en": units}


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


def _read_sets(
    kind: SetKind, shares: Mapping[str, MixtureSet], files: MixtureFiles
) -> dict[str, SetReading]:
    """Read every set into scratch, and publish the matches of all of them."""
    sets: dict[str, SetReading] = {}
    for position, (name, share) in enumerate(shares.items()):
        files.progress(position, len(shares) + 1, f"reading {name}")
        sets[name] = _read_set(kind, name, share, files)
    if files.contamination is not None:
        with complete_file(files.output.with_name(MATCHES_FILE)) as file:
            for name in shares:
                with _matches_file(files, name).open("rb") as part:
                    shutil.copyfileobj(part, file)
    files.progress(len(shares), len(shares) + 1, "drawing the mixture")
    return sets


def _matches_file(files: MixtureFiles, name: str) -> Path:
    return files.scratch / f"{name}.{MATCHES_FILE}"


def _read_set(kind: SetKind, name: str, share: MixtureSet, files: MixtureFiles) -> SetReading:
    """Write a set's usable samples to scratch, and its skipped rows to quarantine."""
    counts_path = files.scratch / f"{name}.counts.json"
    if counts_path.exists():
        return from_json(SetReading, counts_path)
    letters: list[str] = []
    skipped: Counter[str] = Counter()
    other = contaminated = 0
    malformed: list[str] = []
    quarantine = files.quarantine / f"{name}.jsonl"
    with (
        complete_file(files.scratch / f"{name}.jsonl") as file,
        complete_file(quarantine) as bad,
        complete_file(_matches_file(files, name)) as found,
    ):
        for item in read_samples(kind, files.data / name, name):
            if isinstance(item, SkippedRow):
                skipped[item.reason] += 1
                if item.malformed:
                    malformed.append(str(item))
                bad.write(json_line(vars(item)))
                continue
            if not _wanted(item, share):
                other += 1
                continue
            if files.contamination is not None:
                place = f"{name}/{item.place}"
                matches = files.contamination.matches(item.content.texts, place)
                found.writelines(map(json_line, matches))
                contaminated += bool(matches)
                if matches and files.contamination.drops:
                    continue
            letters.append(item.language[0])
            file.write(json_line(item.content.columns() | {"set": name, "language": item.language}))
        if files.on_bad_row == "fail":
            refuse_bad_rows(name, malformed, BAD_ROW_REMEDY)
    if not skipped:
        quarantine.unlink()
    counts = SetReading(
        languages="".join(letters),
        other=other,
        skipped=dict(sorted(skipped.items())),
        malformed=len(malformed),
        contaminated=contaminated,
    )
    write_json(counts_path, vars(counts))
    return counts


def _wanted(sample: Sample, share: MixtureSet) -> bool:
    if share.language not in ("any", sample.language):
        return False
    return (
        not share.styles
        or not isinstance(sample.content, Chat)
        or sample.content.style in share.styles
    )


def _write(
    files: MixtureFiles, sets: Mapping[str, SetReading], picks: Iterable[tuple[str, Sequence[int]]]
) -> list[MixtureRow]:
    """Write the picked samples, (set, increasing indices) in this order, and count them."""
    taken: dict[str, list[int]] = {name: [] for name in sets}
    with complete_file(files.output) as file:
        for name, indices in picks:
            taken[name] += indices
            file.writelines(_lines_at(files.scratch / f"{name}.jsonl", indices))
    return [
        MixtureRow(
            set=name,
            usable=len(counts.languages),
            taken=len(taken[name]),
            chinese=sum(counts.languages[i] == "z" for i in taken[name]),
            neither=sum(counts.languages[i] == "o" for i in taken[name]),
            other=counts.other,
            skipped=counts.skipped,
            malformed=counts.malformed,
            contaminated=counts.contaminated,
        )
        for name, counts in sets.items()
    ]


def _lines_at(path: Path, indices: Sequence[int]) -> Iterator[bytes]:
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
