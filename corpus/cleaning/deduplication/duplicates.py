"""The recipes' deduplicators, applied to the documents that passed every filter.

    hashes of every partition ─▶ one file ─▶ clusters ─▶ Duplicates: kept, or a copy of which

Families whose recipes have a deduplicator with equal parameters share it: a web page that repeats
an encyclopedia's article is a copy of that. Documents are in the order in which they are preferred;
of copies the first one stays.

In bounded memory work: document_minhash_deduplicator, whose copies are verified against the text
that is kept (verified_copies.py); document_simhash_deduplicator and document_deduplicator, with the
library's own hashes, as clusters (near_duplicates.py); repeated_lines_deduplicator, of which only
the counting is done here (repeated_lines.py). Any other deduplicator's `process` is called with the
hashes of the whole corpus, in memory.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.files import write_json
from corpus.cleaning.deduplication.band_buckets import find_buckets
from corpus.cleaning.deduplication.near_duplicates import (
    CHUNK,
    distance_between,
    equal_clusters,
    near_clusters,
)
from corpus.cleaning.deduplication.recipe_deduplicators import SIMHASH, RecipeDeduplicator
from corpus.cleaning.deduplication.repeated_lines import count_repeated
from corpus.cleaning.deduplication.survivor_texts import SurvivorTexts, num_survivors
from corpus.cleaning.deduplication.verified_copies import CopyFinder

UNKNOWN = -1
"""Representative of a copy where the library does not report the original."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The documents that passed every filter, in the order in which they are preferred, with the
    copies marked."""

    dropped_by: npt.NDArray[np.int16]
    """Position of the deduplicator that dropped it; 0: kept. Shape [N]."""
    representative: npt.NDArray[np.int64]
    """Number of the document kept in its place: its own if it is kept, or UNKNOWN. Shape [N]."""
    distance: npt.NDArray[np.uint8]
    """Bits in which its hash differs from the representative's. Shape [N]."""
    similarity: npt.NDArray[np.float64]
    """Jaccard similarity to the representative where that was verified; else 0. Shape [N]."""
    repeated: Mapping[int, npt.NDArray[np.int64]]
    """For each deduplicator that takes lines out: hashes of the repeated ones, ascending."""
    ids: "Ids"
    """The documents' ids."""


class Ids:
    """Ids of all surviving documents, on disk."""

    def __init__(self, folder: Path) -> None:
        self.bytes = _map(folder / "ids.bytes", np.uint8)
        self.ends = _map(folder / "ids.ends", np.int64)

    def __getitem__(self, number: int) -> str:
        start = int(self.ends[number - 1]) if number else 0
        return bytes(self.bytes[start : int(self.ends[number])]).decode()


@dataclass(frozen=True, kw_only=True)
class _Marks:
    """The arrays of Duplicates while they are written, and what the search needs."""

    partitions: Sequence[Path]
    folder: Path
    workers: int
    tick: Callable[[], None]
    dropped_by: npt.NDArray[np.int16]
    representative: npt.NDArray[np.int64]
    distance: npt.NDArray[np.uint8]
    similarity: npt.NDArray[np.float64]


def find_duplicates(
    deduplicators: Sequence[RecipeDeduplicator],
    partitions: Sequence[Path],
    folder: Path,
    workers: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> Duplicates:
    """Find the duplicates among all partitions' survivors.

    Args:
        deduplicators: of all recipes, in order.
        partitions: folders of filtered partitions, in the order in which copies are preferred. One
            without hashes of a deduplicator takes no part in it.
        folder: where the result is kept; a finished one is read again.
        workers: processes.
        tick: called a few times a second while they work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    if not done.exists():
        total = _gather_ids(partitions, folder)
        marks = _Marks(
            partitions=partitions,
            folder=folder,
            workers=workers,
            tick=tick,
            dropped_by=_fresh(folder / "dropped_by", np.int16, total),
            representative=_fresh(folder / "representative", np.int64, total),
            distance=_fresh(folder / "distance", np.uint8, total),
            similarity=_fresh(folder / "similarity", np.float64, total),
        )
        for start in range(0, total, CHUNK):
            end = min(start + CHUNK, total)
            marks.representative[start:end] = np.arange(start, end)
        for one in deduplicators:
            log.info("%s: looking for duplicates among %d documents", one.operator.name, total)
            _apply(one, marks)
        for array in (marks.dropped_by, marks.representative, marks.distance, marks.similarity):
            if isinstance(array, np.memmap):
                array.flush()
        write_json(done, {"documents": total})
    for one in deduplicators:
        shutil.rmtree(_scratch(folder, one), ignore_errors=True)
    return Duplicates(
        dropped_by=_map(folder / "dropped_by", np.int16),
        representative=_map(folder / "representative", np.int64),
        distance=_map(folder / "distance", np.uint8),
        similarity=_map(folder / "similarity", np.float64),
        repeated={
            one.position: _map(_repeated_file(folder, one), np.int64)
            for one in deduplicators
            if one.takes_lines_out
        },
        ids=Ids(folder),
    )


def _scratch(folder: Path, deduplicator: RecipeDeduplicator) -> Path:
    return folder / f"search-{deduplicator.position:02d}"


def _repeated_file(folder: Path, deduplicator: RecipeDeduplicator) -> Path:
    return folder / f"repeated-{deduplicator.position:02d}"


def _apply(deduplicator: RecipeDeduplicator, marks: _Marks) -> None:
    """Mark the duplicates that one deduplicator finds among the documents still kept."""
    name = f"hashes-{deduplicator.position:02d}.parquet"
    paths = [partition / name for partition in marks.partitions]
    files = [path for path in paths if path.exists()]
    # Numbers of the documents that the files are about, and of those the ones still kept.
    numbers = None if len(files) == len(paths) else _numbers_in(marks.partitions, paths)
    gone = np.asarray(marks.dropped_by)[slice(None) if numbers is None else numbers] != 0
    rows = np.flatnonzero(~gone) if gone.any() else None
    if deduplicator.takes_lines_out:
        scratch = _scratch(marks.folder, deduplicator)
        least = deduplicator.built.min_documents
        count_repeated(files, rows, least, scratch, _repeated_file(marks.folder, deduplicator))
    elif deduplicator.minhash is not None:
        _apply_minhash(deduplicator, files, rows, numbers, marks)
    elif deduplicator.clusters:
        _apply_clusters(deduplicator, files, rows, numbers, marks)
    else:
        _apply_library(deduplicator, files, numbers, rows, marks.dropped_by, marks.representative)


def _apply_minhash(
    deduplicator: RecipeDeduplicator,
    files: Sequence[Path],
    rows: npt.NDArray[np.int64] | None,
    numbers: npt.NDArray[np.int64] | None,
    marks: _Marks,
) -> None:
    minhash = deduplicator.minhash
    assert minhash is not None
    scratch = _scratch(marks.folder, deduplicator)
    if rows is not None:
        numbers = rows if numbers is None else numbers[rows]
    texts = SurvivorTexts(marks.partitions)
    finder = CopyFinder(
        minhash=minhash,
        threshold=deduplicator.built.jaccard_threshold,
        buckets=find_buckets(files, rows, minhash.bands, scratch / "buckets"),
        text=lambda row: texts[row if numbers is None else int(numbers[row])],
        scratch=scratch,
    )
    for found in finder.find(marks.workers, marks.tick):
        own, kept = found["document"], found["kept"]
        if numbers is not None:
            own, kept = numbers[own], numbers[kept]
        marks.dropped_by[own], marks.representative[own] = deduplicator.position, kept
        marks.similarity[own] = found["similarity"]


def _apply_clusters(
    deduplicator: RecipeDeduplicator,
    files: Sequence[Path],
    rows: npt.NDArray[np.int64] | None,
    numbers: npt.NDArray[np.int64] | None,
    marks: _Marks,
) -> None:
    gathered = marks.folder / "hashes"
    with gathered.open("wb") as out:
        for file in files:
            out.write(pq.read_table(file)["hash"].to_numpy().tobytes())
    hashes: npt.NDArray[np.uint64] = _map(gathered, np.uint64)
    if rows is not None:
        hashes, numbers = hashes[rows], rows if numbers is None else numbers[rows]
    scratch = marks.folder / "clusters"
    if deduplicator.operator.name == SIMHASH:
        labels = near_clusters(hashes, deduplicator.built.hamming_distance, scratch)
    else:
        labels = equal_clusters(hashes, scratch)
    for start in range(0, len(labels), CHUNK):
        own = np.arange(start, min(start + CHUNK, len(labels)))
        first = np.asarray(labels[own])
        copy = first != own
        own, first = own[copy], first[copy]
        apart = distance_between(hashes[own], hashes[first])
        if numbers is not None:
            own, first = numbers[own], numbers[first]
        marks.dropped_by[own], marks.representative[own] = deduplicator.position, first
        marks.distance[own] = apart


def _numbers_in(partitions: Sequence[Path], paths: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Numbers of the survivors of partitions whose file is there."""
    there = [path.exists() for path in paths]
    return np.flatnonzero(np.repeat(there, [num_survivors(one) for one in partitions]))


def _apply_library(
    deduplicator: RecipeDeduplicator,
    files: Sequence[Path],
    numbers: npt.NDArray[np.int64] | None,
    rows: npt.NDArray[np.int64] | None,
    dropped_by: npt.NDArray[np.int16],
    representative: npt.NDArray[np.int64],
) -> None:
    table = pa.concat_tables([pq.read_table(file) for file in files])
    rows = np.arange(table.num_rows) if rows is None else rows
    if not len(rows):
        return
    documents = rows if numbers is None else numbers[rows]
    table = table.take(rows).append_column("row", pa.array(documents))
    unique, _ = deduplicator.built.process(datasets.Dataset(table))
    lost = np.setdiff1d(documents, np.asarray(unique["row"]))
    dropped_by[lost], representative[lost] = deduplicator.position, UNKNOWN


def _gather_ids(partitions: Sequence[Path], folder: Path) -> int:
    """Write the survivors' ids. Returns their number."""
    end = total = 0
    with (folder / "ids.bytes").open("wb") as text, (folder / "ids.ends").open("wb") as ends:
        for partition in partitions:
            table = pq.read_table(
                partition / "document_trace.parquet",
                columns=["id"],
                filters=[("dropped_by", "=", 0)],
            )
            encoded = [document.encode() for document in table["id"].to_pylist()]
            text.write(b"".join(encoded))
            (end + np.cumsum([len(e) for e in encoded], dtype=np.int64)).tofile(ends)
            end += sum(map(len, encoded))
            total += len(encoded)
    return total


def _fresh(path: Path, dtype: Any, length: int) -> Any:
    """Zeros on disk."""
    path.write_bytes(b"")
    return np.memmap(path, dtype, mode="w+", shape=(length,)) if length else np.zeros(0, dtype)


def _map(path: Path, dtype: Any) -> Any:
    if not path.stat().st_size:  # nothing can be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
