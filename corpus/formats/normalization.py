"""Normalisation of one corpus: native files to lines of {"text", "source", "id", "meta"}.

    <corpus>/**/* ──────readers──────────▶ records ──record_formats──▶ <corpus>.jsonl
        └── encodings                         └── malformed, empty ──▶ quarantine/<corpus>.jsonl

Streamed. `id` names the place that a document comes from: `<corpus>/<file>#<line>`. One that is too
long becomes several (long_documents.py), `<corpus>/<file>#<line>/<part>`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from common.disk import total_bytes
from common.errors import ConfigError, DataError
from common.files import complete_file, json_line
from common.paths import display
from common.recipes import recipe_path
from corpus.formats.encodings import Neighbours
from corpus.formats.long_documents import OPENING, cut
from corpus.formats.readers import PLAIN, reader_of
from corpus.formats.record_formats import RECORD_FORMATS, Document, Rejected, to_document
from corpus.formats.records import CANNOT_READ, Damaged, reason_class
from corpus.formats.text_keys import TextKeys
from corpus.recipes import CorpusRecipe
from corpus.sources.source import is_hidden
from corpus.text_fields import excerpt_of

EXPANSION = 4
"""Bytes written per byte read, at most: snappy parquet and gzip grow when unpacked."""

MOST_NAMED = 20
"""Files that are named in the result."""

PROGRESS_EVERY = 256
"""Records between two reports of progress."""


class RawCorpus:
    """An acquired corpus: its recipe and the files that may hold records."""

    def __init__(self, recipe: CorpusRecipe, raw: Path) -> None:
        """
        Args:
            recipe: the corpus's recipe.
            raw: folder with one folder for each corpus.

        Raises:
            ConfigError: the recipe names an unknown format.
            DataError: no file may hold records, and the recipe does not say `optional: true`.
        """
        check_format(recipe)
        self.recipe, self.raw = recipe, raw
        folder = raw / recipe.name
        found = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not is_hidden(str(path.relative_to(folder)))
        ]
        self.files = [path for path in found if reader_of(path, recipe) is not None]
        self.passed_over = Counter(p.suffix or p.name for p in set(found) - set(self.files))
        self.size = total_bytes(self.files)
        if not self.size and not recipe.optional:
            others = f" (passed over: {_listed(self.passed_over)})" if self.passed_over else ""
            raise DataError(
                f"Corpus {recipe.name!r} is empty: {display(folder)} holds no data for `reading: "
                f"{recipe.reading}`{others}. Check its location under `corpora`, or write "
                "`optional: true` into its recipe if it may be empty."
            )


def check_format(recipe: CorpusRecipe) -> None:
    """Raise ConfigError when a recipe names an unknown format."""
    if recipe.format not in RECORD_FORMATS:
        raise ConfigError(
            f"{display(recipe_path('corpora', recipe.name))}: unknown format {recipe.format!r}. "
            f"Known: {', '.join(RECORD_FORMATS)}; a new one is a function in "
            "corpus/formats/record_formats.py."
        )


@dataclass(kw_only=True)
class NormalizedCorpus:
    """Counts of what a corpus has given."""

    source: str
    """Name of the corpus."""
    family: str
    """Family of its documents (corpus/recipes.py)."""
    documents: int = 0
    """Documents written."""
    characters: int = 0
    """Characters in them."""
    few_upvotes: int = 0
    """Documents left out for too few up-votes."""
    cut: int = 0
    """Long documents that became several."""
    quarantined: int = 0
    """Records set aside."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason -> records set aside for it, most frequent first."""
    encodings: dict[str, int] = field(default_factory=dict)
    """Encoding -> files, most frequent first."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Suffix -> files that hold no records."""
    text_keys: dict[str, int] = field(default_factory=dict)
    """Fields that the texts were taken of (`format: plain`) -> rows, most frequent first."""
    damaged_files: dict[str, int] = field(default_factory=dict)
    """File -> bytes that are not of its encoding and were left out; the first `MOST_NAMED`."""
    unreadable_files: dict[str, str] = field(default_factory=dict)
    """File that could not be read, or not to its end -> reason; the first `MOST_NAMED`."""
    empty: bool = False
    """True for an optional corpus without any document."""


def normalize_corpus(
    corpus: RawCorpus,
    target: Path,
    quarantine: Path,
    *,
    limit: int = 0,
    longest: int = 0,
    progress: Callable[[int], None] = lambda bytes_read: None,
) -> NormalizedCorpus:
    """Write a corpus's documents and, into another file, the records that are none.

    Args:
        corpus: the corpus.
        target: file of the documents.
        quarantine: file of {"file", "line", "reason", "excerpt"}, one for each rejected record.
        limit: documents at most, from the front; 0 for all.
        longest: characters of a document at most, longer ones are cut; 0: any number.
        progress: called now and then with the bytes of raw files read so far.

    Raises:
        DataError: none of its records is a document, and it is not optional.
    """
    recipe = corpus.recipe
    result = NormalizedCorpus(source=recipe.name, family=recipe.family)
    keys, neighbours = TextKeys(recipe.text_key), Neighbours(corpus.files)
    reasons, encodings, bytes_before = Counter[str](), Counter[str](), 0
    with complete_file(target) as kept, complete_file(quarantine) as rejected_lines:
        for path in corpus.files:
            reader = reader_of(path, recipe)
            assert reader is not None, "it is one of the corpus's files"
            for index, record in enumerate(reader(path, neighbours)):
                if not index % PROGRESS_EVERY:
                    progress(bytes_before + record.bytes_read)
                if not index and record.encoding:
                    encodings[record.encoding] += 1
                place = f"{path.relative_to(corpus.raw)}#{record.line}"
                value = record.value
                try:
                    if recipe.format == PLAIN:
                        value = keys.record(value)
                    lines = _normalized(value, recipe, place, longest, result, record.lost)
                    for line in lines[: limit - result.documents if limit else None]:
                        kept.write(line)
                        result.documents += 1
                except Rejected as rejected:
                    damaged = isinstance(record.value, Damaged)
                    if str(rejected).startswith(CANNOT_READ):
                        _note(result.unreadable_files, place, str(rejected))
                    reasons[reason_class(str(rejected))] += record.value.records if damaged else 1
                    rejected_lines.write(_quarantine_line(place, rejected, record.value))
                if limit and result.documents == limit:
                    break
            if limit and result.documents == limit:
                break
            bytes_before += path.stat().st_size
    result.empty = not result.documents
    if result.empty and not recipe.optional:
        absent = f" {keys.absent}: name one as `text_key` in its recipe." if keys.absent else ""
        raise DataError(
            f"Corpus {recipe.name!r} is empty: none of its records is a document of format "
            f"{recipe.format!r} ({_listed(reasons) or 'no records'}).{absent} Look at "
            f"{display(quarantine)}, and check the corpus's location and recipe."
        )
    result.text_keys = dict(keys.taken.most_common())
    result.quarantined = reasons.total()
    result.reasons = dict(reasons.most_common())
    result.encodings = dict(encodings.most_common())
    result.passed_over = dict(sorted(corpus.passed_over.items()))
    return result


def _normalized(
    value: Any, recipe: CorpusRecipe, place: str, longest: int, result: NormalizedCorpus, lost: int
) -> list[bytes]:
    """A record as lines of the result; none for too few up-votes."""
    if isinstance(value, Damaged):
        raise Rejected(value.reason)
    document = to_document(RECORD_FORMATS[recipe.format], value)
    if document.meta.get("upvotes", recipe.min_upvotes) < recipe.min_upvotes:
        result.few_upvotes += 1
        return []
    if lost:
        document.meta["lost_bytes"] = lost
    if lost := document.meta.get("lost_bytes", 0):
        _note(result.damaged_files, place, int(lost))
    named = _parts(document, place, longest, code=recipe.family == "code")
    lines = [
        _line({"text": part.text, "source": recipe.name, "id": name, "meta": part.meta})
        for name, part in named
    ]
    result.cut += len(lines) > 1
    result.characters += len(document.text)
    return lines


def _parts(
    document: Document, place: str, longest: int, *, code: bool
) -> list[tuple[str, Document]]:
    """A document, or the parts that it is cut into, each with its id."""
    texts = cut(document.text, longest, code=code)
    if len(texts) == 1:
        return [(place, document)]
    parts = []
    for number, text in enumerate(texts, 1):
        meta = document.meta | {"part": number, "parts": len(texts)}
        if code and number > 1:
            meta["opening"] = document.text[:OPENING]
        parts.append((f"{place}/{number}", Document(text=text, meta=meta)))
    return parts


def _note(files: dict[str, Any], place: str, what: str | int) -> None:
    """Note something about the file of a place, of the first `MOST_NAMED` files."""
    file = place.rpartition("#")[0]
    if file in files and isinstance(what, int):
        files[file] += what
    elif len(files) < MOST_NAMED:
        files.setdefault(file, what)


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


def _quarantine_line(place: str, rejected: Rejected, value: Any) -> bytes:
    file, _, line = place.rpartition("#")
    excerpt = value.excerpt if isinstance(value, Damaged) else excerpt_of(value)
    row = {"file": file, "line": int(line), "reason": str(rejected), "excerpt": excerpt}
    if isinstance(value, Damaged) and value.records != 1:
        row["records"] = value.records
    try:
        return json_line(row)
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _listed(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{key}: {count}" for key, count in counts.items())
