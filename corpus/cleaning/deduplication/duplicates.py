"""The recipes' deduplicators, applied to the documents that passed every filter.

    hashes of every partition ─▶ one file ─▶ clusters ─▶ Duplicates: kept, or a copy of which

Families whose recipes have a deduplicator with equal parameters share it: a web page that repeats
an encyclopedia's article is a copy of that. Documents are in the order in which they are preferred;
of copies the first one stays.

Hashes are the library's own (`compute_hash`). Clusters of document_simhash_deduplicator and of
document_deduplicator are found here in bounded memory (near_duplicates.py); any other
deduplicator's `process` is called with the hashes of the whole corpus, in memory.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from data_juicer.ops.base_op import Deduplicator

from common.errors import ConfigError
from common.files import write_json
from corpus.cleaning.deduplication.near_duplicates import (
    CHUNK,
    distance_between,
    equal_clusters,
    near_clusters,
)
from corpus.cleaning.fast.operators import fast_simhash
from corpus.cleaning.recipe import Operator, Recipe

SIMHASH = "document_simhash_deduplicator"
EXACT = "document_deduplicator"

UNKNOWN = -1
"""Representative of a copy where the library does not report the original."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RecipeDeduplicator:
    """One deduplicator, of all recipes that have it with equal parameters."""

    position: int
    """Its place among the deduplicators of all recipes, from 1."""
    operator: Operator
    """Its entry in the recipe."""
    built: Deduplicator
    """The library's object."""

    @property
    def bounded(self) -> bool:
        """True if its clusters are found here, from 64-bit hashes, in bounded memory."""
        return self.operator.name in (SIMHASH, EXACT)

    def hashes(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Compute the columns that its `process` needs, for each text."""
        if self.operator.name == SIMHASH and (fast := fast_simhash(self.built)):
            return [{"hash": value} for value in fast(texts)]
        return [self._hash(text) for text in texts]

    def _hash(self, text: str) -> dict[str, Any]:
        key = self.built.text_key
        sample = self.built.compute_hash({key: text})
        columns = {name: value for name, value in sample.items() if name != key}
        if not self.bounded:
            return columns
        (value,) = columns.values()
        # A decimal number; or an MD5, of which 64 bits distinguish 10^9 documents.
        return {"hash": int(value) if self.operator.name == SIMHASH else int(value[:16], 16)}


def shared_deduplicators(
    recipes: Mapping[Any, Recipe], built: Mapping[str, Any]
) -> list[RecipeDeduplicator]:
    """The different deduplicators of all recipes, in an order that is every recipe's.

    Args:
        recipes: family -> recipe.
        built: the library's objects, by `Operator.key`.

    Raises:
        ConfigError: two recipes have them in opposite orders.
    """
    order: TopologicalSorter[str] = TopologicalSorter()
    different: dict[str, Operator] = {}
    for recipe in recipes.values():
        before: list[str] = []
        for operator in recipe.deduplicators:
            order.add(operator.key, *before)
            different.setdefault(operator.key, operator)
            before = [operator.key]
    try:
        keys = list(order.static_order())
    except CycleError as error:
        names = " and ".join(dict.fromkeys(different[key].name for key in error.args[1]))
        raise ConfigError(
            f"Recipes of different families have {names} in opposite orders; give all the same"
        ) from error
    return [
        RecipeDeduplicator(position=position, operator=different[key], built=built[key])
        for position, key in enumerate(keys, start=1)
    ]


def positions_of(recipe: Recipe, shared: Sequence[RecipeDeduplicator]) -> dict[int, int]:
    """Place of a shared deduplicator -> its place in the ledger of a recipe that has it."""
    first = len(recipe.by_document) + 1
    places = {op.key: place for place, op in enumerate(recipe.deduplicators, start=first)}
    return {one.position: places[one.operator.key] for one in shared if one.operator.key in places}


def hash_table(rows: Sequence[dict[str, Any]], deduplicator: RecipeDeduplicator) -> pa.Table:
    """Hashes of a partition's documents as a table."""
    if deduplicator.bounded:
        return pa.table({"hash": pa.array([row["hash"] for row in rows], pa.uint64())})
    return pa.Table.from_pylist(list(rows))


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


def find_duplicates(
    deduplicators: Sequence[RecipeDeduplicator], partitions: Sequence[Path], folder: Path
) -> Duplicates:
    """Find the duplicates among all partitions' survivors.

    Args:
        deduplicators: of all recipes, in order.
        partitions: folders of filtered partitions, in the order in which copies are preferred. One
            without hashes of a deduplicator takes no part in it.
        folder: where the result is kept; a finished one is read again.
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
        for one in deduplicators:
            log.info("%s: looking for duplicates among %d documents", one.operator.name, total)
            _apply(one, partitions, folder, dropped_by, representative, distance)
        for array in (dropped_by, representative, distance):
            if isinstance(array, np.memmap):
                array.flush()
        write_json(done, {"documents": total})
    return Duplicates(
        dropped_by=_map(folder / "dropped_by", np.int16),
        representative=_map(folder / "representative", np.int64),
        distance=_map(folder / "distance", np.uint8),
        ids=Ids(folder),
    )


def _apply(
    deduplicator: RecipeDeduplicator,
    partitions: Sequence[Path],
    folder: Path,
    dropped_by: npt.NDArray[np.int16],
    representative: npt.NDArray[np.int64],
    distance: npt.NDArray[np.uint8],
) -> None:
    """Mark the duplicates that one deduplicator finds among the documents still kept."""
    paths = [partition / f"hashes-{deduplicator.position:02d}.parquet" for partition in partitions]
    files = [path for path in paths if path.exists()]
    # Numbers of the documents that the files are about, and of those the ones still kept.
    numbers = None if len(files) == len(paths) else _numbers_in(partitions, paths)
    gone = np.asarray(dropped_by)[slice(None) if numbers is None else numbers] != 0
    rows = np.flatnonzero(~gone) if gone.any() else None
    if not deduplicator.bounded:
        _apply_library(deduplicator, files, numbers, rows, dropped_by, representative)
        return
    gathered = folder / "hashes"
    with gathered.open("wb") as out:
        for file in files:
            out.write(pq.read_table(file)["hash"].to_numpy().tobytes())
    hashes: npt.NDArray[np.uint64] = _map(gathered, np.uint64)
    if rows is not None:
        hashes, numbers = hashes[rows], rows if numbers is None else numbers[rows]
    scratch = folder / "clusters"
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
        dropped_by[own], representative[own] = deduplicator.position, first
        distance[own] = apart


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


def num_survivors(partition: Path) -> int:
    """Number of documents of a filtered partition that passed every filter."""
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
