"""Which of the documents that passed every filter are kept: the recipe's deduplicators.

    every partition's hashes ──▶ one file of all ──▶ clusters ──▶ decision: kept, or a copy of which

Hashes are the library's own (`compute_hash`). Clusters of document_simhash_deduplicator and of
document_deduplicator are found here in bounded memory (near_duplicates.py); any other
deduplicator's `process` is called with the hashes of the whole corpus, in memory.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from data_juicer.ops.base_op import Deduplicator

from common.files import write_json
from corpus.cleaning.deduplication.near_duplicates import (
    CHUNK,
    distance_between,
    equal_clusters,
    near_clusters,
)
from corpus.cleaning.fast import operators as shortcuts
from corpus.cleaning.recipe import Operator

SIMHASH = "document_simhash_deduplicator"
EXACT = "document_deduplicator"

UNKNOWN = -1
"""Representative of a copy whose original the library does not tell."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One deduplicator of the recipe."""

    position: int
    """Its place in the ledger, from 1."""
    operator: Operator
    """What the recipe says."""
    built: Deduplicator
    """The library's object."""

    @property
    def bounded(self) -> bool:
        """Whether its clusters are found here, from 64-bit hashes."""
        return self.operator.name in (SIMHASH, EXACT)

    def hashes(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The columns that its `process` needs, of each text."""
        if self.operator.name == SIMHASH and (shortcut := shortcuts.hashing(self.built)):
            return [{"hash": value} for value in shortcut(texts)]
        return [self._hash(text) for text in texts]

    def _hash(self, text: str) -> dict[str, Any]:
        key = self.built.text_key
        sample = self.built.compute_hash({key: text})
        columns = {name: value for name, value in sample.items() if name != key}
        if not self.bounded:
            return columns
        (value,) = columns.values()
        # A decimal number; or an MD5, of which 64 bits tell 10^9 documents apart.
        return {"hash": int(value) if self.operator.name == SIMHASH else int(value[:16], 16)}


def hash_table(rows: Sequence[dict[str, Any]], step: Step) -> pa.Table:
    """Hashes of a partition's documents as a table."""
    if step.bounded:
        return pa.table({"hash": pa.array([row["hash"] for row in rows], pa.uint64())})
    return pa.Table.from_pylist(list(rows))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of the documents that passed every filter, in the corpus's order."""

    dropped_by: npt.NDArray[np.int16]
    """Position of the deduplicator that dropped it; 0: kept. Shape [N]."""
    representative: npt.NDArray[np.int64]
    """Which document is kept in its place: its own number, or UNKNOWN. Shape [N]."""
    distance: npt.NDArray[np.uint8]
    """Bits in which its hash differs from the representative's. Shape [N]."""
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


def decide(steps: Sequence[Step], partitions: Sequence[Path], folder: Path) -> Decision:
    """Find the duplicates among all partitions' survivors.

    Args:
        steps: the recipe's deduplicators, in order.
        partitions: surveyed partitions, in the corpus's order.
        folder: where the decision is kept; a finished one is read again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    if not done.exists():
        total = _gather_ids(partitions, folder)
        dropped_by = _fresh(folder / "dropped_by", np.int16, total)
        representative = _fresh(folder / "representative", np.int64, total)
        distance = _fresh(folder / "distance", np.uint8, total)
        for start in range(0, total, CHUNK):
            end = min(start + CHUNK, total)
            representative[start:end] = np.arange(start, end)
        for step in steps:
            log.info("%s: looking for duplicates among %d documents", step.operator.name, total)
            _apply(step, partitions, folder, dropped_by, representative, distance)
        for array in (dropped_by, representative, distance):
            if isinstance(array, np.memmap):
                array.flush()
        write_json(done, {"documents": total})
    return Decision(
        dropped_by=_map(folder / "dropped_by", np.int16),
        representative=_map(folder / "representative", np.int64),
        distance=_map(folder / "distance", np.uint8),
        ids=Ids(folder),
    )


def _apply(
    step: Step,
    partitions: Sequence[Path],
    folder: Path,
    dropped_by: npt.NDArray[np.int16],
    representative: npt.NDArray[np.int64],
    distance: npt.NDArray[np.uint8],
) -> None:
    """Let one deduplicator decide about the documents that are still alive."""
    files = [partition / f"hashes-{step.position:02d}.parquet" for partition in partitions]
    alive = np.flatnonzero(np.asarray(dropped_by) == 0) if dropped_by.any() else None
    if not step.bounded:
        _library_decides(step, files, alive, dropped_by, representative)
        return
    hashes = _gather_hashes(files, folder / "hashes")
    if alive is not None:
        hashes = hashes[alive]
    scratch = folder / "clusters"
    if step.operator.name == SIMHASH:
        labels = near_clusters(hashes, step.built.hamming_distance, scratch)
    else:
        labels = equal_clusters(hashes, scratch)
    for start in range(0, len(labels), CHUNK):
        own = np.arange(start, min(start + CHUNK, len(labels)))
        first = np.asarray(labels[own])
        copy = first != own
        own, first = own[copy], first[copy]
        apart = distance_between(hashes[own], hashes[first])
        if alive is not None:
            own, first = alive[own], alive[first]
        dropped_by[own], representative[own] = step.position, first
        distance[own] = apart


def _library_decides(
    step: Step,
    files: Sequence[Path],
    alive: npt.NDArray[np.int64] | None,
    dropped_by: npt.NDArray[np.int16],
    representative: npt.NDArray[np.int64],
) -> None:
    table = pa.concat_tables([pq.read_table(file) for file in files])
    rows = np.arange(table.num_rows) if alive is None else alive
    table = table.take(rows).append_column("row", pa.array(rows))
    if not len(rows):
        return
    unique, _ = step.built.process(datasets.Dataset(table))
    lost = np.setdiff1d(rows, np.asarray(unique["row"]))
    dropped_by[lost], representative[lost] = step.position, UNKNOWN


def _gather_hashes(files: Sequence[Path], path: Path) -> npt.NDArray[np.uint64]:
    """Hashes of all partitions one after the other, memory-mapped."""
    with path.open("wb") as out:
        for file in files:
            out.write(pq.read_table(file)["hash"].to_numpy().tobytes())
    hashes: npt.NDArray[np.uint64] = _map(path, np.uint64)
    return hashes


def _gather_ids(partitions: Sequence[Path], folder: Path) -> int:
    """Write the survivors' ids; return how many there are."""
    end = total = 0
    with (folder / "ids.bytes").open("wb") as text, (folder / "ids.ends").open("wb") as ends:
        for partition in partitions:
            encoded = [document.encode() for document in survivors(partition)]
            text.write(b"".join(encoded))
            (end + np.cumsum([len(e) for e in encoded], dtype=np.int64)).tofile(ends)
            end += sum(map(len, encoded))
            total += len(encoded)
    return total


def survivors(partition: Path) -> Iterator[str]:
    """Ids of the documents of a surveyed partition that passed every filter."""
    table = pq.read_table(
        partition / "fates.parquet", columns=["id"], filters=[("dropped_by", "=", 0)]
    )
    yield from table["id"].to_pylist()


def num_survivors(partition: Path) -> int:
    """How many documents of a surveyed partition passed every filter."""
    counts: dict[str, int] = json.loads((partition / "counts.json").read_text("utf-8"))
    return counts["survivors"]


def _fresh(path: Path, dtype: Any, length: int) -> Any:
    """Zeros on disk."""
    path.write_bytes(b"")
    return np.memmap(path, dtype, mode="w+", shape=(length,)) if length else np.zeros(0, dtype)


def _map(path: Path, dtype: Any) -> Any:
    if not path.stat().st_size:  # nothing can be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
