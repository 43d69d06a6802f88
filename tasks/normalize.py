"""Stage `normalize`: every corpus in one format (corpus/formats), and what was set aside.

A corpus whose two files are complete is not read again after an interruption.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from common.config import NOT_IN_KEY, StageConfig, errors_of
from common.disk import require_free_space
from common.errors import ConfigError, SteelError
from common.files import write_json
from common.names import Name
from common.paths import RECIPES
from common.ranges import NonNegativeInt
from corpus.formats.normalization import EXPANSION, RawCorpus, check_format, normalize_corpus
from corpus.formats.readers import PLAIN
from corpus.recipes import FAMILIES, corpus
from tasks.core.stage import StageResult, StageRun, plain, stage

ANY = "*"
"""Any family that has no bound of its own."""

LEAST = 1_000
"""Characters of the smallest bound: below, parts are no documents."""


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig(StageConfig):
    """Corpora to normalise, and how much of them."""

    corpora: tuple[Name, ...] = ()
    """Names of corpora (data_recipes/corpora/<name>.yaml); empty: all that were acquired."""
    limit: NonNegativeInt = 0
    """Documents per corpus at most, from the front; 0: no limit."""
    longest: Mapping[str, NonNegativeInt] = field(default_factory=lambda: {ANY: 50_000})
    """Family of sources, or `"*"` for all others -> characters of a document at most; a longer one
    is cut into several at chapters, paragraphs, definitions (0: never)."""
    text_keys: Mapping[Name, str | tuple[str, ...]] = field(default_factory=dict)
    """Corpus with `format: plain` -> field of its rows that holds the text, in the place of its
    recipe's `text_key`: a name, a dotted path (`data.text`), or a list, joined by line ends."""
    optional: tuple[Name, ...] = field(default=(), metadata=NOT_IN_KEY)
    """Corpora that may be empty, beside those whose recipe says so; a pipeline sets it."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes of the corpora, as far as they decide how rows become documents."""
        known = sorted(path.stem for path in (RECIPES / "corpora").glob("*.yaml"))
        return {name: plain(corpus(name), key=True) for name in self.corpora or known}

    def check(self) -> Iterator[SteelError]:
        for name in self.corpora:
            yield from errors_of(_check_corpus, name)
        for name in self.text_keys:
            yield from errors_of(_check_text_key, name)
        for family, longest in self.longest.items():
            if family not in (ANY, *FAMILIES):
                yield ConfigError(
                    f"longest.{family}: no such family. Known: {ANY}, {', '.join(FAMILIES)}"
                )
            if 0 < longest < LEAST:
                yield ConfigError(
                    f"longest.{family} is {longest}; it must be 0 (never cut) or at least {LEAST}"
                )

    def longest_of(self, family: str) -> int:
        """Characters of a document at most, in a family of sources; 0: any number."""
        return self.longest.get(family, self.longest.get(ANY, 0))


def _check_corpus(name: str) -> None:
    """Raise ConfigError where a corpus has no recipe, or its recipe names an unknown format."""
    check_format(corpus(name))


def _check_text_key(name: str) -> None:
    """Raise ConfigError for a corpus whose format knows by itself what its text is."""
    if (found := corpus(name).format) != PLAIN:
        raise ConfigError(
            f"text_keys: {name} is of the format {found}, which knows its fields; only corpora of "
            f"the format {PLAIN} are told"
        )


@stage(version=6, keeps="finished corpora")
def normalize(run: StageRun, config: NormalizeConfig, *, raw: StageResult) -> None:
    """Write `<source>.jsonl` and `quarantine/<source>.jsonl` for every corpus.

    Raises DataError when a corpus that is not optional has no file with records, or none of its
    records is a document.
    """
    names = config.corpora or tuple(
        sorted(p.name for p in raw.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    recipes = [corpus(name) for name in names]
    sources = [
        RawCorpus(
            replace(
                r,
                optional=r.optional or r.name in config.optional,
                text_key=config.text_keys.get(r.name, r.text_key),
            ),
            raw.folder,
        )
        for r in recipes
    ]
    total = sum(source.size for source in sources)
    require_free_space(run.folder, EXPANSION * total, "normalize")
    finished, rows = 0, []
    for source in sources:
        rows.append(_normalize_one(run, source, config, finished, total))
        finished += source.size
    run.count(
        documents=sum(row["documents"] for row in rows),
        characters=sum(row["characters"] for row in rows),
        quarantined=sum(row["quarantined"] for row in rows),
    )
    run.note(sources={row["source"]: row for row in rows})
    shown = [{k: _cell(v) for k, v in row.items()} for row in rows]
    run.table("normalize", shown, "Documents by source, and records set aside by reason")


def _normalize_one(
    run: StageRun, source: RawCorpus, config: NormalizeConfig, bytes_before: int, bytes_total: int
) -> dict[str, Any]:
    """Normalise one corpus and return its row of the table; from notes if it was done before."""
    name = source.recipe.name
    notes = run.scratch / f"{name}.json"
    if notes.exists():
        row: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
        run.log.info("%s was finished before the interruption", name)
        return row
    row = asdict(
        normalize_corpus(
            source,
            run.folder / f"{name}.jsonl",
            run.folder / "quarantine" / f"{name}.jsonl",
            limit=config.limit,
            longest=config.longest_of(source.recipe.family),
            progress=lambda read: run.progress(
                bytes_before + read, bytes_total, f"of raw data ({name})"
            ),
        )
    )
    write_json(notes, row)
    run.log.info("%s: %d documents, %d set aside", name, row["documents"], row["quarantined"])
    for file, reason in row["unreadable_files"].items():
        run.log.warning("%s %s", file, reason)
    for file, lost in row["damaged_files"].items():
        run.log.warning("%s: %d damaged bytes were left out; all else of it is kept", file, lost)
    if row["text_keys"] and not source.recipe.text_key:
        run.log.info("%s: texts were taken of %s", name, _cell(row["text_keys"]))
    if row["empty"]:
        run.log.warning("%s is empty, as it may be", name)
    return row


def _cell(value: Any) -> Any:
    return "; ".join(f"{k}: {n}" for k, n in value.items()) if isinstance(value, dict) else value
