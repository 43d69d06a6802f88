"""Native formats -> {"text", "source", "id", "meta"}, one JSON-lines file per source.

    raw/<source>/**/* ──reading──▶ records ──formats──▶ <source>.jsonl
                                      └── malformed, empty ──▶ quarantine/<source>.jsonl

Streamed, source by source. A source whose two files stand finished is not read again after an
interruption. `id` names the place a document comes from: `<source>/<file>#<line>`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError, DataError
from tasks._corpora import CorpusRecipe, corpus
from tasks._disk import require_free_space, total_bytes
from tasks._files import complete_file, json_line
from tasks._manifest import write_json
from tasks._recipes import RECIPES, display, recipe_path
from tasks._stage import StageResult, StageRun, stage
from tasks.normalize.formats import FORMATS, Rejected, convert
from tasks.normalize.reading import Damaged, read_records

SKIPPED_SUFFIXES = (".md", ".py", ".sh", ".txt", ".csv", ".gitattributes", ".sha256", ".lock")
"""Files that accompany a data set and hold no records."""

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
            f"Known: {', '.join(FORMATS)}; a new one is a function in tasks/normalize/formats.py."
        )
    return recipe


@stage(version=1)
def normalize(run: StageRun, config: NormalizeConfig, *, raw: StageResult) -> None:
    """Write `<source>.jsonl` and `quarantine/<source>.jsonl` for every corpus.

    Raises DataError when a corpus has no file with records, or none of its records is a document.
    """
    names = config.corpora or tuple(
        sorted(p.name for p in raw.folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    files = {name: raw_files(raw.folder / name, name) for name in names}
    total = total_bytes(path for paths in files.values() for path in paths)
    require_free_space(run.folder, EXPANSION * total, "normalize")
    finished, rows = 0, []
    for name, paths in files.items():
        rows.append(_source(run, _known_format(corpus(name)), raw.folder, paths, config.limit,
                            finished, total))  # fmt: skip
        finished += total_bytes(paths)
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


def raw_files(folder: Path, name: str) -> list[Path]:
    """The files of an acquired corpus that may hold records, sorted. Raises DataError for none."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.suffix.lower() not in SKIPPED_SUFFIXES
    ]
    if not files or not total_bytes(files):
        raise DataError(
            f"Corpus {name!r} is empty: {display(folder)} holds no data. Check its location under "
            "acquire.datasets."
        )
    return files


def _source(
    run: StageRun, recipe: CorpusRecipe, raw: Path, files: list[Path], limit: int,
    bytes_before: int, bytes_total: int,
) -> dict[str, Any]:  # fmt: skip
    """Normalise one corpus and return its row of the table; from notes if it was done before."""
    name = recipe.name
    done = run.scratch / f"{name}.json"
    if done.exists():
        row: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        run.log.info("%s was finished before the interruption", name)
        return row
    reasons: Counter[str] = Counter()
    documents = characters = few_upvotes = 0
    out, quarantine = run.folder / f"{name}.jsonl", run.folder / "quarantine" / f"{name}.jsonl"
    with complete_file(out) as kept, complete_file(quarantine) as aside:
        for path in files:
            relative = path.relative_to(raw)
            for record in read_records(path):
                run.progress(bytes_before + record.bytes_read, bytes_total, f"of raw data ({name})")
                try:
                    if isinstance(record.value, Damaged):
                        raise Rejected(record.value.reason)
                    document = convert(FORMATS[recipe.format], record.value)
                except Rejected as rejected:
                    reasons[_class(str(rejected))] += 1
                    aside.write(_quarantine_line(relative, record.line, rejected, record.value))
                    continue
                if document.meta.get("upvotes", recipe.min_upvotes) < recipe.min_upvotes:
                    few_upvotes += 1
                    continue
                place = f"{relative}#{record.line}"
                kept.write(json_line({"text": document.text, "source": name, "id": place,
                                      "meta": document.meta}))  # fmt: skip
                documents += 1
                characters += len(document.text)
                if documents == limit:
                    break
            if limit and documents == limit:
                break
            bytes_before += path.stat().st_size
    if not documents:
        raise DataError(
            f"Corpus {name!r} is empty: none of its records is a document of format "
            f"{recipe.format!r} ({_cell(dict(reasons)) or 'no records'}). Look at "
            f"{display(quarantine)}, and check the corpus's location and recipe."
        )
    row = {
        "source": name, "kind": recipe.kind, "documents": documents, "characters": characters,
        "few_upvotes": few_upvotes, "quarantined": reasons.total(),
        "reasons": dict(reasons.most_common()),
    }  # fmt: skip
    write_json(done, row)
    run.log.info("%s: %d documents, %d set aside", name, documents, reasons.total())
    return row


def _class(reason: str) -> str:
    """A reason without its particulars, to count by."""
    return reason.split(":")[0].split(" at byte ")[0]


def _quarantine_line(
    file: Path, line: int, rejected: Rejected, value: Damaged | Mapping[str, Any] | Any
) -> bytes:
    if isinstance(value, Damaged):
        excerpt = value.excerpt
    else:
        excerpt = json.dumps(value, ensure_ascii=False, default=repr)[:200]
    row = {"file": str(file), "line": line, "reason": str(rejected), "excerpt": excerpt}
    try:
        return json_line(row)
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"
