"""Native formats -> {"text", "source", "id", "meta"}, one JSON-lines file per source.

    raw/<source>/**/* ──reading, plain──▶ records ──formats──▶ <source>.jsonl
        └── opening: encoding            └── malformed, empty ──▶ quarantine/<source>.jsonl

Streamed, source by source. A source whose two files stand finished is not read again after an
interruption. `id` names the place a document comes from: `<source>/<file>#<line>`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from common.disk import require_free_space, total_bytes
from common.errors import ConfigError, DataError
from common.files import complete_file, json_line, write_json
from common.paths import RECIPES, display
from common.recipes import recipe_path
from corpus.formats.encodings import suffix
from corpus.formats.record_formats import FORMATS, Rejected, convert
from corpus.formats.records import Damaged, Raw, read_records
from corpus.formats.text_files import LINED, WHOLE, read_file, read_lines
from corpus.recipes import CorpusRecipe, corpus
from tasks.core.stage import StageResult, StageRun, stage

SKIPPED_SUFFIXES = (".md", ".py", ".sh", ".txt", ".csv", ".gitattributes", ".sha256", ".lock")
"""Files that accompany a data set and hold no records."""

READINGS: dict[str, Callable[[Path], Iterator[Raw]]] = {
    "records": read_records,
    "files": read_file,
    "lines": read_lines,
}
"""A recipe's `reading` -> what reads its files."""

EXPANSION = 4
"""Bytes written per byte read, at most: snappy parquet and gzip grow when unpacked."""


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig:
    """What to normalise, and how."""

    corpora: tuple[str, ...] = ()
    """Names of corpora (data_recipes/corpora/<name>.yaml); empty: all that were acquired."""
    limit: int = 0
    """Documents per corpus at most, from the front; 0: no limit."""

    def recipe_files(self) -> list[Path]:
        """The recipes of the corpora."""
        if self.corpora:
            return [recipe_path("corpora", name) for name in self.corpora]
        return sorted((RECIPES / "corpora").glob("*.yaml"))


def check(config: NormalizeConfig) -> None:
    """Raise ConfigError when a corpus has no recipe, or a recipe names an unknown format."""
    if config.limit < 0:
        raise ConfigError(f"normalize.limit must be 0 (none) or more (got {config.limit})")
    for name in config.corpora:
        _known_format(corpus(name))


def _known_format(recipe: CorpusRecipe) -> CorpusRecipe:
    if recipe.format not in FORMATS:
        raise ConfigError(
            f"{display(recipe_path('corpora', recipe.name))}: unknown format {recipe.format!r}. "
            f"Known: {', '.join(FORMATS)}; a new one is a function in "
            "corpus/formats/record_formats.py."
        )
    return recipe


@stage(version=2)
def normalize(run: StageRun, config: NormalizeConfig, *, raw: StageResult) -> None:
    """Write `<source>.jsonl` and `quarantine/<source>.jsonl` for every corpus.

    Raises DataError when a corpus has no file with records, or none of its records is a document.
    """
    names = config.corpora or tuple(
        sorted(p.name for p in raw.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    sources = [_Source(_known_format(corpus(name)), raw.folder) for name in names]
    total = sum(source.size for source in sources)
    require_free_space(run.folder, EXPANSION * total, "normalize")
    finished, rows = 0, []
    for source in sources:
        rows.append(_normalized(run, source, config.limit, finished, total))
        finished += source.size
    run.count(
        documents=sum(row["documents"] for row in rows),
        characters=sum(row["characters"] for row in rows),
        quarantined=sum(row["quarantined"] for row in rows),
    )
    run.note(sources={row["source"]: row for row in rows})
    shown = [{k: _cell(v) for k, v in row.items()} for row in rows]
    run.table("normalize", shown, "Documents by source, and what was set aside and why")


def _cell(value: Any) -> Any:
    return "; ".join(f"{k}: {n}" for k, n in value.items()) if isinstance(value, dict) else value


class _Source:
    """An acquired corpus: its recipe and the files that may hold records."""

    def __init__(self, recipe: CorpusRecipe, raw: Path) -> None:
        """Raises DataError when there is no such file."""
        self.recipe, self.raw = recipe, raw
        folder = raw / recipe.name
        there = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
        self.files = [path for path in there if _may_hold_records(path, recipe)]
        self.passed_over = Counter(p.suffix or p.name for p in set(there) - set(self.files))
        self.size = total_bytes(self.files)
        if not self.size:
            others = f" (passed over: {_cell(self.passed_over)})" if self.passed_over else ""
            raise DataError(
                f"Corpus {recipe.name!r} is empty: {display(folder)} holds no data for `reading: "
                f"{recipe.reading}`{others}. Check its location under acquire.datasets."
            )


def _may_hold_records(path: Path, recipe: CorpusRecipe) -> bool:
    match recipe.reading:
        case "files":
            return suffix(path) in WHOLE
        case "lines":
            return suffix(path) in LINED
        case _:
            return path.suffix.lower() not in SKIPPED_SUFFIXES


@dataclass(kw_only=True)
class _Tally:
    """What a corpus has given so far."""

    documents: int = 0
    characters: int = 0
    few_upvotes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)


def _normalized(
    run: StageRun, source: _Source, limit: int, bytes_before: int, bytes_total: int
) -> dict[str, Any]:
    """Normalise one corpus and return its row of the table; from notes if it was done before."""
    recipe, name = source.recipe, source.recipe.name
    done = run.scratch / f"{name}.json"
    if done.exists():
        row: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        run.log.info("%s was finished before the interruption", name)
        return row
    tally = _Tally()
    out, quarantine = run.folder / f"{name}.jsonl", run.folder / "quarantine" / f"{name}.jsonl"
    with complete_file(out) as kept, complete_file(quarantine) as aside:
        for path in source.files:
            for record in _converted(source, path, tally, aside):
                if isinstance(record, int):
                    run.progress(bytes_before + record, bytes_total, f"of raw data ({name})")
                    continue
                kept.write(record)
                if tally.documents == limit:
                    break
            if limit and tally.documents == limit:
                break
            bytes_before += path.stat().st_size
    if not tally.documents:
        raise DataError(
            f"Corpus {name!r} is empty: none of its records is a document of format "
            f"{recipe.format!r} ({_cell(dict(tally.reasons)) or 'no records'}). Look at "
            f"{display(quarantine)}, and check the corpus's location and recipe."
        )
    row = {
        "source": name,
        "kind": recipe.kind,
        "documents": tally.documents,
        "characters": tally.characters,
        "few_upvotes": tally.few_upvotes,
        "quarantined": tally.reasons.total(),
        "reasons": dict(tally.reasons.most_common()),
        "encodings": dict(tally.encodings.most_common()),
        "passed_over": dict(sorted(source.passed_over.items())),
    }
    write_json(done, row)
    run.log.info("%s: %d documents, %d set aside", name, tally.documents, tally.reasons.total())
    return row


PROGRESS_EVERY = 256
"""Records between two reports of progress."""


def _converted(
    source: _Source, path: Path, tally: _Tally, aside: IO[bytes]
) -> Iterator[bytes | int]:
    """Finished lines of one raw file, and now and then how many of its bytes are read."""
    recipe, name, to_document = source.recipe, source.recipe.name, FORMATS[source.recipe.format]
    relative = path.relative_to(source.raw)
    for count, (line, value, bytes_read, encoding) in enumerate(READINGS[recipe.reading](path)):
        if not count % PROGRESS_EVERY:
            yield bytes_read
        if not count and encoding:
            tally.encodings[encoding] += 1
        try:
            if isinstance(value, Damaged):
                raise Rejected(value.reason)
            document = convert(to_document, value)
            if document.meta.get("upvotes", recipe.min_upvotes) < recipe.min_upvotes:
                tally.few_upvotes += 1
                continue
            written = _line(
                {
                    "text": document.text,
                    "source": name,
                    "id": f"{relative}#{line}",
                    "meta": document.meta,
                }
            )
        except Rejected as rejected:
            lost = value.records if isinstance(value, Damaged) else 1
            tally.reasons[_class(str(rejected))] += lost
            aside.write(_quarantine_line(relative, line, rejected, value))
            continue
        tally.documents += 1
        tally.characters += len(document.text)
        yield written


def _line(document: dict[str, Any]) -> bytes:
    """A line of the result. Raises Rejected for meta that UTF-8 cannot hold."""
    try:
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
        pass
    try:
        return json_line(document)
    except UnicodeEncodeError:
        raise Rejected("`meta` holds half a surrogate pair") from None


_PARTICULARS = re.compile(r":| at (?:byte|character) \d| of line \d| rows \d")


def _class(reason: str) -> str:
    """A reason without its particulars, to count by."""
    return _PARTICULARS.split(reason, maxsplit=1)[0]


def _quarantine_line(file: Path, line: int, rejected: Rejected, value: Any) -> bytes:
    row = {"file": str(file), "line": line, "reason": str(rejected), "excerpt": _excerpt(value)}
    if isinstance(value, Damaged) and value.records != 1:
        row["records"] = value.records
    try:
        return json_line(row)
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _excerpt(value: Any) -> str:
    """How a rejected record begins."""
    if isinstance(value, Damaged):
        return value.excerpt
    try:
        return json.dumps(value, ensure_ascii=False, default=repr)[:200]
    except (ValueError, RecursionError):
        return f"{type(value).__name__} that cannot be shown"
