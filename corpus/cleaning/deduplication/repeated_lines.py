"""Lines that many documents have, counted on disk.

    hashes of the lines of every document ─▶ files by hash ─▶ counts ─▶ repeated ones, ascending

Memory does not grow with the corpus: a file is counted at a time, and there are enough of them.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Ints = npt.NDArray[np.int64]

LINES = "lines"
"""Column of the hashes of a document's lines."""
PER_FILE = 1 << 22
"""Hashes counted at once, about: 200 MB."""
MOST_FILES = 512
"""Files open at once."""

PAIR = np.dtype([("hash", "<i8"), ("documents", "<i8")])


def count_repeated(
    files: Sequence[Path], rows: Ints | None, min_documents: int, scratch: Path, result: Path
) -> None:
    """Write the hashes that stand in many documents, ascending.

    Args:
        files: tables of hashes, in the documents' order.
        rows: documents that count; None: all.
        min_documents: in so many documents or more.
        scratch: folder for the counts.
        result: file of int64.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    total = sum(pq.read_metadata(file).row_group(0).column(0).num_values for file in _full(files))
    num = min(MOST_FILES, -(-total // PER_FILE) or 1)
    # Of signed numbers the upper bits, so that the files together are in order.
    edges = [-(2**63) + (2**64 * i) // num for i in range(1, num)]
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context((scratch / f"{i:03d}").open("wb")) for i in range(num)]
        for hashes in _of_rows(files, rows):
            values, counts = np.unique(hashes, return_counts=True)
            pairs = np.empty(len(values), PAIR)
            pairs["hash"], pairs["documents"] = values, counts
            cuts = np.searchsorted(values, np.array(edges, np.int64))
            for output, part in zip(outputs, np.split(pairs, cuts), strict=True):
                part.tofile(output)
    with result.open("wb") as out:
        for number in range(num):
            pairs = np.fromfile(scratch / f"{number:03d}", PAIR)
            values, which = np.unique(pairs["hash"], return_inverse=True)
            counts = np.zeros(len(values), np.int64)
            np.add.at(counts, which, pairs["documents"])
            values[counts >= min_documents].tofile(out)
    shutil.rmtree(scratch)


def lines_among(file: Path, repeated: Ints) -> Iterator[frozenset[int]]:
    """For each document of a table of hashes, those that are repeated.

    Args:
        file: the table.
        repeated: hashes, ascending.
    """
    column = pq.read_table(file, columns=[LINES])[LINES].combine_chunks()
    hashes = column.flatten().to_numpy()
    at = np.searchsorted(repeated, hashes)
    at[at == len(repeated)] = 0
    found = repeated[at] == hashes if len(repeated) else np.zeros(len(hashes), bool)
    before = np.concatenate([[0], np.cumsum(found)])
    start = 0
    for length in pa.compute.list_value_length(column).to_pylist():
        end = start + length
        if before[end] == before[start]:
            yield frozenset()
        else:
            yield frozenset(hashes[start:end][found[start:end]].tolist())
        start = end


def _full(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if pq.read_metadata(file).num_row_groups]


def _of_rows(files: Sequence[Path], rows: Ints | None) -> Iterator[Ints]:
    """The hashes of the documents that count, a file at a time."""
    start = 0
    for file in files:
        column = pq.read_table(file, columns=[LINES])[LINES].combine_chunks()
        end = start + len(column)
        if rows is not None:
            first, last = np.searchsorted(rows, [start, end])
            column = column.take(pa.array(rows[first:last] - start))
        yield column.flatten().to_numpy()
        start = end
