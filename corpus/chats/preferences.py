"""Preference sets as candidates of a training: every usable pair, screened, with its place.

    set ──read_samples──▶ usable pairs ──benchmark questions──▶ candidates.jsonl, a line each:
                                                               {prompt, chosen, rejected, set,
                                                                language, place}

The ratio of languages is drawn later, when it is known which pairs a training can use at all
(model/train/finetune/preferences).
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.config import from_json
from common.files import complete_file, json_line, write_json
from corpus.bad_rows import refuse_bad_rows
from corpus.chats.contamination import MATCHES_FILE
from corpus.chats.mixing import MixtureFiles
from corpus.chats.reading import BAD_ROW_REMEDY, read_samples
from corpus.chats.rows import SkippedRow


@dataclass(frozen=True, kw_only=True)
class PreferenceSet:
    """Counts of a preference set that was read."""

    set: str
    """Its name."""
    languages: Mapping[str, int]
    """{language: candidates}; other ones than zh and en are left to the caller."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """{reason: rows} that cannot be used: ties, empty answers, damaged rows …"""
    malformed: int = 0
    """Of these, rows that are damaged or not of the set's format."""
    contaminated: int = 0
    """Pairs that contain a benchmark question."""
    dropped: int = 0
    """Of these, pairs that are no candidates therefore."""

    @property
    def candidates(self) -> int:
        """Pairs that were written."""
        return sum(self.languages.values())


def gather_preferences(
    names: Sequence[str], files: MixtureFiles, matches: Path
) -> list[PreferenceSet]:
    """Write every usable pair of the sets `names` to `files.output`, set by set.

    matches: receives the benchmark questions that were found, where they are looked for.

    Raises DataError when a set's files aren't there, or for malformed rows where they are refused.
    """
    sets = []
    for position, name in enumerate(names):
        files.progress(position, len(names), f"reading {name}")
        sets.append(_read_set(name, files))
    if files.contamination is not None:
        _join([files.scratch / f"{name}.{MATCHES_FILE}" for name in names], matches)
    _join([files.scratch / f"{name}.jsonl" for name in names], files.output)
    files.progress(len(names), len(names), "pairs gathered")
    return sets


def _join(parts: Sequence[Path], whole: Path) -> None:
    with complete_file(whole) as file:
        for path in parts:
            with path.open("rb") as part:
                shutil.copyfileobj(part, file)


def _read_set(name: str, files: MixtureFiles) -> PreferenceSet:
    """Write a set's candidates to scratch, and its skipped rows to quarantine."""
    counts_path = files.scratch / f"{name}.counts.json"
    if counts_path.exists():
        return from_json(PreferenceSet, counts_path)
    languages, skipped = Counter[str](), Counter[str]()
    contaminated = dropped = 0
    malformed: list[str] = []
    quarantine = files.quarantine / f"{name}.jsonl"
    with (
        complete_file(files.scratch / f"{name}.jsonl") as file,
        complete_file(quarantine) as bad,
        complete_file(files.scratch / f"{name}.{MATCHES_FILE}") as found,
    ):
        for item in read_samples("preferences", files.data / name, name):
            if isinstance(item, SkippedRow):
                skipped[item.reason] += 1
                if item.malformed:
                    malformed.append(str(item))
                bad.write(json_line(vars(item)))
                continue
            place = f"{name}/{item.place}"
            if files.contamination is not None:
                matches = files.contamination.matches(item.content.texts, place)
                found.writelines(map(json_line, matches))
                contaminated += bool(matches)
                if matches and files.contamination.drops:
                    dropped += 1
                    continue
            languages[item.language] += 1
            about = {"set": name, "language": item.language, "place": place}
            file.write(json_line(item.content.columns() | about))
        if files.on_bad_row == "fail":
            refuse_bad_rows(name, malformed, BAD_ROW_REMEDY)
    if not skipped:
        quarantine.unlink()
    counts = PreferenceSet(
        set=name,
        languages=dict(sorted(languages.items())),
        skipped=dict(sorted(skipped.items())),
        malformed=len(malformed),
        contaminated=contaminated,
        dropped=dropped,
    )
    write_json(counts_path, asdict(counts))
    return counts
