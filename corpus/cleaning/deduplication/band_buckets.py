"""Buckets of documents that have a MinHash key in common, on disk.

    keys [bands, N] ─▶ sorted band by band ─▶ buckets of two documents or more
                                               ├─▶ places [bands, N]: where a document's bucket lies
                                               ├─▶ slots: room for the kept documents of each bucket
                                               └─▶ labels [N]: connected components of buckets

Memory does not grow with the number of documents: a band is sorted slice by slice, and arrays are
mapped files. They take 16 bytes per band and document.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from common.files import write_json
from corpus.cleaning.deduplication.near_duplicates import Hashes, Ints, connect, own_labels, slices

KEPT_PER_BUCKET = 64
"""Kept documents that a bucket remembers, the preferred ones. A page of a large template shares
other, smaller buckets with the pages that it resembles more."""

KEYS = "keys"
"""Column of a document's keys, 8 bytes for each band."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Buckets of N documents."""

    places: Ints
    """Place in `slots` of the bucket of a band and document; 0: it is alone. [bands, N]"""
    slots: Path
    """File of int64: for each bucket its room, the number of documents in it, the documents."""
    labels: Ints
    """The first document that is connected to each one by common buckets. [N]"""
    shared: Flags
    """True for the documents that share a bucket with another. [N]"""


def find_buckets(
    files: Sequence[Path], rows: npt.NDArray[np.int64] | None, bands: int, scratch: Path
) -> Buckets:
    """Sort documents into buckets by the keys of each band.

    Args:
        files: tables of keys, in the documents' order.
        rows: documents that take part; None: all.
        bands: keys of a document.
        scratch: folder for the arrays; finished ones are read again.
    """
    complete = scratch / "complete.json"
    if complete.exists():
        return _read(scratch, bands)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    keys = _gather(files, rows, bands, scratch / "places")
    length = keys.shape[1]
    labels = own_labels(length, scratch)
    shared = _mapped(scratch / "shared", np.bool_, (length,))
    pairs = scratch / "pairs"
    with (scratch / "slots").open("wb") as slots, pairs.open("wb") as found:
        np.zeros(1, np.int64).tofile(slots)  # place 0 is no bucket
        end = 1
        for band in range(bands if length else 0):
            # Places take the keys' room, so those of a band are put aside.
            np.asarray(keys[band]).tofile(scratch / "band")
            values = np.memmap(scratch / "band", np.uint64, mode="r")
            keys[band] = 0
            for at in slices(values, np.uint64(2**64 - 1)):
                members, sizes = _equal_runs(values[at], at)
                rooms = np.minimum(sizes, KEPT_PER_BUCKET)
                begins = np.cumsum(rooms + 2) - (rooms + 2)
                block = np.zeros(int((rooms + 2).sum()), np.int64)
                block[begins] = rooms
                block.tofile(slots)
                keys[band, members] = np.repeat(end + begins, sizes)
                shared[members] = True
                firsts = members[np.cumsum(sizes) - sizes]
                np.stack([np.repeat(firsts, sizes), members], axis=1).tofile(found)
                end += len(block)
            del values
    connect(labels, pairs)
    pairs.unlink()
    (scratch / "band").unlink(missing_ok=True)
    for array in (keys, labels, shared):
        if isinstance(array, np.memmap):
            array.flush()
    write_json(complete, {"documents": length})
    return _read(scratch, bands)


def _read(scratch: Path, bands: int) -> Buckets:
    """Read the arrays of a finished search again."""
    length = json.loads((scratch / "complete.json").read_text("utf-8"))["documents"]
    return Buckets(
        places=_mapped(scratch / "places", np.int64, (bands, length), "r"),
        slots=scratch / "slots",
        labels=_mapped(scratch / "labels", np.int64, (length,), "r"),
        shared=_mapped(scratch / "shared", np.bool_, (length,), "r"),
    )


def _equal_runs(values: Hashes, at: Ints) -> tuple[Ints, Ints]:
    """Positions of values that occur twice or more, run by run, and the length of each run."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if not len(values):
        begins = begins[:0]
    sizes = np.diff(np.append(begins, len(ordered)))
    repeated = sizes > 1
    return at[order[np.repeat(repeated, sizes)]], sizes[repeated]


def read_keys(file: Path, bands: int) -> Hashes:
    """The keys of a table's documents. Shape [N, bands]."""
    column = pq.read_table(file, columns=[KEYS])[KEYS].combine_chunks()
    if not len(column):
        return np.zeros((0, bands), np.uint64)
    return np.frombuffer(column.buffers()[1], "<u8", len(column) * bands).reshape(-1, bands)


def _gather(
    files: Sequence[Path], rows: npt.NDArray[np.int64] | None, bands: int, path: Path
) -> Hashes:
    """The keys of all documents that take part, on disk. Shape [bands, N]."""
    counts = [pq.read_metadata(file).num_rows for file in files]
    keys: Hashes = _mapped(path, np.uint64, (bands, sum(counts) if rows is None else len(rows)))
    start = done = 0
    for file, count in zip(files, counts, strict=True):
        here = read_keys(file, bands)
        if rows is not None:
            first, last = np.searchsorted(rows, [start, start + count])
            here = here[rows[first:last] - start]
        keys[:, done : done + len(here)] = here.T
        start, done = start + count, done + len(here)
    return keys


def _mapped(
    path: Path, dtype: Any, shape: tuple[int, ...], mode: Literal["r", "w+"] = "w+"
) -> npt.NDArray[Any]:
    """An array on disk; a new one is of zeros, which take no room there."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode=mode, shape=shape)
