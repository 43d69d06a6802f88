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
from corpus.cleaning.deduplication.band_buckets import KEYS, find_buckets
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
    fresh = [_read(table, minhash.bands) for table in tables[len(known) :]]
    every = np.concatenate(fresh) if fresh else np.zeros((0, minhash.bands), np.uint64)
    asked = [np.unique(every[:, band]) for band in range(minhash.bands)]
    rows: list[npt.NDArray[np.int64]] = []
    start = 0
    for number, table in enumerate(tables):
        keys = _read(table, minhash.bands)
        if number < len(known):
            alike = np.zeros(len(keys), bool)
            for band, values in enumerate(asked):
                alike |= np.isin(keys[:, band], values)
            rows.append(np.flatnonzero(alike) + start)
        else:
            rows.append(np.arange(start, start + len(keys)))
        start += len(keys)
        tick()
    chosen = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    first_new = sum(len(one) for one in rows[: len(known)])
    lines = _Lines(files)
    finder = CopyFinder(
        minhash=minhash,
        threshold=parameters["jaccard_threshold"],
        buckets=find_buckets(tables, chosen, minhash.bands, scratch / "buckets"),
        text=lambda row: str(lines[int(chosen[row])]["text"]),
        scratch=scratch,
    )
    return [
        Copy(
            document=str(lines[int(chosen[row])].get("id", "")),
            kept=str(lines[int(chosen[kept])].get("id", "")),
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


def _read(table: Path, bands: int) -> npt.NDArray[np.uint64]:
    """Keys of a file's texts. Shape [N, bands]."""
    column = pq.read_table(table, columns=[KEYS])[KEYS]
    whole = b"".join(value.as_py() for value in column)
    return np.frombuffer(whole, "<u8").reshape(-1, bands)


class _Lines:
    """Rows of several files by their number over all of them, read one at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._starts: list[npt.NDArray[np.int64]] = []
        for path in files:
            with path.open("rb") as file:
                sizes = [len(line) for line in file]
            self._starts.append(np.cumsum([0, *sizes], dtype=np.int64))
        self._firsts = np.cumsum([0, *(len(one) - 1 for one in self._starts)])

    def __getitem__(self, number: int) -> dict[str, Any]:
        which = int(np.searchsorted(self._firsts, number, side="right")) - 1
        row = number - int(self._firsts[which])
        start, end = self._starts[which][row : row + 2].tolist()
        with self._files[which].open("rb") as file:
            found: dict[str, Any] = json.loads(os.pread(file.fileno(), end - start, start))
        return found
