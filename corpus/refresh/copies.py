"""New documents that are near-duplicates of texts that were kept before.

    known texts ─▶ MinHash keys (kept in a cache) ─▶ those with a key of a new document ─┐
    new texts   ─▶ MinHash keys ────────────────────────────────────────────────────────┴─▶ verified

Candidates and verification are those of cleaning (corpus/cleaning/deduplication, docs/adr/0042):
known documents come first, so a new one is dropped as a copy of a kept one, never the reverse.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.files import canonical_json, complete_file, digest_of, make_folder
from corpus.cleaning.deduplication.band_buckets import KEYS, find_buckets, read_keys
from corpus.cleaning.deduplication.verified_copies import CopyFinder
from corpus.cleaning.fast.minhash import MinHash
from corpus.cleaning.recipe import MINHASH, Recipe

DEFAULTS: Mapping[str, Any] = {
    "tokenization": "character",
    "window_size": 4,
    "lowercase": True,
    "ignore_pattern": r"[\W_]",
    "jaccard_threshold": 0.7,
    "num_bands": 36,
    "num_rows_per_band": 7,
}
"""Parameters where a recipe has no MinHash: those of the curated text recipes."""
BATCH = 1024
"""Texts that are hashed at once."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A new document that is dropped."""

    document: str
    """Its id."""
    kept: str
    """Id of the document that the training has, or gets, in its place."""
    similarity: float
    """Jaccard similarity of their shingles."""


def parameters_of(recipe: Recipe) -> dict[str, Any]:
    """Parameters of a recipe's MinHash, or `DEFAULTS`."""
    for operator in recipe.deduplicators:
        if operator.name == MINHASH and operator.arguments.get("num_bands"):
            found = {**DEFAULTS, **{k: v for k, v in operator.arguments.items() if k in DEFAULTS}}
            if found["tokenization"] in ("character", "space", "punctuation"):
                return found
    return dict(DEFAULTS)


def find_copies(
    new: Sequence[Path],
    known: Sequence[Path],
    parameters: Mapping[str, Any],
    *,
    scratch: Path,
    cache: Path,
    workers: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> list[Copy]:
    """Find the documents of new files that are copies of known ones, or of earlier new ones.

    Args:
        new, known: files of {"id", "text"} lines, in the order in which copies are preferred.
        parameters: of a document_minhash_deduplicator.
        scratch: folder for what is in between.
        cache: folder for keys of known texts, under names of their content.
        workers: processes of the comparison.
        tick: called again and again.
    """
    pattern = parameters["ignore_pattern"]
    operator = {**parameters, "ignore_pattern": re.compile(pattern) if pattern else None}
    minhash = MinHash(SimpleNamespace(**operator))
    files = [*known, *new]
    tables = []
    for number, path in enumerate(files):
        folder = cache if number < len(known) else scratch
        tables.append(_keys(path, minhash, parameters, folder, tick))
    fresh = [read_keys(table, minhash.bands) for table in tables[len(known) :]]
    every = np.concatenate(fresh) if fresh else np.zeros((0, minhash.bands), np.uint64)
    asked = [np.unique(every[:, band]) for band in range(minhash.bands)]
    rows: list[npt.NDArray[np.int64]] = []
    counts: list[int] = []
    for table in tables[: len(known)]:
        keys = read_keys(table, minhash.bands)
        alike = np.zeros(len(keys), bool)
        for band, values in enumerate(asked):
            alike |= np.isin(keys[:, band], values)
        rows.append(np.flatnonzero(alike))
        counts.append(len(keys))
        tick()
    first_new = sum(len(one) for one in rows)
    rows += [np.arange(len(keys)) for keys in fresh]
    counts += [len(keys) for keys in fresh]
    starts = np.cumsum([0, *counts])
    shifted = [own + start for own, start in zip(rows, starts, strict=False)]
    chosen = np.concatenate(shifted) if shifted else np.zeros(0, np.int64)
    lines = _Lines(files, rows)
    finder = CopyFinder(
        minhash=minhash,
        threshold=parameters["jaccard_threshold"],
        buckets=find_buckets(tables, chosen, minhash.bands, scratch / "buckets"),
        text=lambda row: str(lines[row]["text"]),
        scratch=scratch,
    )
    return [
        Copy(
            document=str(lines[row].get("id", "")),
            kept=str(lines[kept].get("id", "")),
            similarity=round(float(similarity), 4),
        )
        for part in finder.find(workers, tick)
        for row, kept, similarity in part.tolist()
        if row >= first_new
    ]


def _keys(
    path: Path,
    minhash: MinHash,
    parameters: Mapping[str, Any],
    folder: Path,
    tick: Callable[[], None],
) -> Path:
    """File of the MinHash keys of a file's texts, made where there is none for this content."""
    stat = path.stat()
    content = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    name = digest_of([canonical_json(parameters), content])
    target = folder / f"{name}.parquet"
    if target.is_file():
        return target
    make_folder(folder)
    kind = pa.binary(8 * minhash.bands)
    schema = pa.schema([(KEYS, kind)])
    with complete_file(target) as file, pq.ParquetWriter(file, schema) as writer:
        for texts in _batches(path):
            keys = minhash.band_keys(texts).astype("<u8")
            rows = pa.array([row.tobytes() for row in keys], kind)
            writer.write_table(pa.table({KEYS: rows}))
            tick()
    return target


def _batches(path: Path) -> Iterator[list[str]]:
    texts: list[str] = []
    with path.open("rb") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            if len(texts) == BATCH:
                yield texts
                texts = []
    if texts:
        yield texts


class _Lines:
    """Chosen lines of several files by their number among the chosen ones, read one at a time."""

    def __init__(self, files: Sequence[Path], rows: Sequence[npt.NDArray[np.int64]]) -> None:
        """Take files and the numbers of each one's chosen lines. Of others nothing is read."""
        self._files = files
        lengths = np.array([len(own) for own in rows], np.int64)
        self._file = np.repeat(np.arange(len(files)), lengths)
        bounds = [np.zeros((0, 2), np.int64)]
        for path, own in zip(files, rows, strict=True):
            if len(own):
                with path.open("rb") as file:
                    ends = np.cumsum([0, *(len(line) for line in file)], dtype=np.int64)
                bounds.append(np.stack([ends[own], ends[own + 1]], axis=1))
        self._bounds = np.concatenate(bounds)

    def __getitem__(self, number: int) -> dict[str, Any]:
        start, end = self._bounds[number].tolist()
        with self._files[self._file[number]].open("rb") as file:
            found: dict[str, Any] = json.loads(os.pread(file.fileno(), end - start, start))
        return found
