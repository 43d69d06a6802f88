"""Document traces: a parquet row for every document, written partition by partition.

    id            string    `<source>/<file>#<line>`
    source        string    corpus
    bytes_in      int64     UTF-8 bytes of the text as it came in
    bytes_out     int64     … when it was dropped or kept
    dropped_by    int16     position of the operator that dropped it, from 1; 0: kept
    failed        bool      the operator raised an error on it
    edits         list      {operator: position, bytes: size after it} of mappers that changed it
    <statistic>   float64   one column for each value a filter measured, by Data-Juicer's name
    duplicate_of  string    id of the document that was kept in its place
    reason        string    what a filter recognised in it (`generated: protobuf`)

The ledger is computed from these rows alone (`ledger_entries`), so the two cannot disagree.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.files import complete_file, find_document, read_json_lines
from corpus.cleaning.ledger import LedgerEntry

EDITS = pa.list_(pa.struct([("operator", pa.int16()), ("bytes", pa.int64())]))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("bytes_in", pa.int64()),
        ("bytes_out", pa.int64()),
        ("dropped_by", pa.int16()),
        ("failed", pa.bool_()),
        ("edits", EDITS),
        ("duplicate_of", pa.string()),
        ("reason", pa.string()),
    ]
)
"""The columns every file has; statistics come after them."""

META = "meta"
"""Column of what a source says about a document, which filters may read: the path of a file."""

REASON = "reason"
"""Statistic, a string: what a filter recognised in a document; a column of its own here."""

DISTANCE = "duplicate_distance"
"""Statistic of a near-duplicate: bits in which its hash differs from that of the kept document."""
SIMILARITY = "duplicate_similarity"
"""Statistic of a near-duplicate by MinHash: Jaccard similarity of its text to the kept one's."""

Ints = npt.NDArray[np.int64]


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of SCHEMA and a float64 column for every statistic in their `stats`."""
    statistics = sorted({name for row in rows for name in row["stats"]})
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    columns |= {name: [row["stats"].get(name) for row in rows] for name in statistics}
    schema = pa.schema([*SCHEMA, *((name, pa.float64()) for name in statistics)])
    return pa.table(columns, schema=schema)


def write(table: pa.Table, path: Path) -> None:
    """Write a table so that the file is absent or complete."""
    with complete_file(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=1 << 16)


def ledger_entries(table: pa.Table, operators: Sequence[str]) -> list[LedgerEntry]:
    """Count, for each operator, the documents of a table, all of one source."""
    if not table.num_rows:
        return []
    source = str(table["source"][0].as_py())
    num = len(operators)
    dropped_by = table["dropped_by"].to_numpy()
    bytes_in, bytes_out = table["bytes_in"].to_numpy(), table["bytes_out"].to_numpy()
    dropped = np.bincount(dropped_by, minlength=num + 1)
    failed = np.bincount(dropped_by[table["failed"].to_numpy()], minlength=num + 1)
    bytes_dropped = np.zeros(num + 1, np.int64)
    np.add.at(bytes_dropped, dropped_by, bytes_out)
    changed, shrunk = _edits(table["edits"].combine_chunks(), bytes_in, num)
    result = []
    documents, size = table.num_rows, int(bytes_in.sum())
    for position, operator in enumerate(operators, start=1):
        lost, gone, edited = (int(a[position]) for a in (dropped, bytes_dropped, shrunk))
        result.append(
            LedgerEntry(
                position=position,
                operator=operator,
                source=source,
                documents_in=documents,
                documents_kept=documents - lost,
                documents_changed=int(changed[position]),
                documents_dropped=lost,
                documents_failed=int(failed[position]),
                bytes_in=size,
                bytes_kept=size - gone - edited,
                bytes_dropped=gone,
                bytes_edited=edited,
            )
        )
        documents, size = documents - lost, size - gone - edited
    kept = dropped_by == 0
    # The recurrence above never looks at the documents that are kept, so this is a proof.
    assert documents == int(kept.sum()), (source, documents, int(kept.sum()))
    assert size == int(bytes_out[kept].sum()), (source, size, int(bytes_out[kept].sum()))
    return result


def _edits(edits: pa.ListArray, bytes_in: Ints, num: int) -> tuple[Ints, Ints]:
    """Number of documents changed and of bytes taken away, by operator."""
    lengths = edits.value_lengths().fill_null(0).to_numpy()
    flat = edits.flatten()
    operator = flat.field("operator").to_numpy()
    after = flat.field("bytes").to_numpy()
    before = np.empty_like(after)
    before[1:] = after[:-1]
    # The first edit of a document starts from the size it came in with.
    first = (np.cumsum(lengths) - lengths)[lengths > 0]
    before[first] = bytes_in[lengths > 0]
    changed = np.bincount(operator, minlength=num + 1)
    shrunk = np.zeros(num + 1, np.int64)
    np.add.at(shrunk, operator, before - after)
    return changed, shrunk


def files(folder: Path, source: str | None = None) -> list[Path]:
    """Files of document traces in a cleaned folder, of one source or of all, in order."""
    # By the whole name: a pattern `web-[0-9]*` would also take the files of a source `web-2`.
    found = sorted((folder / "documents").glob("*-[0-9]*.parquet"))
    return [path for path in found if source in (None, path.stem.rpartition("-")[0])]


def find(folder: Path, document: str) -> dict[str, Any] | None:
    """The row of one document, with its statistics under `stats`; None when it is not there."""
    for _, row in _rows_of(folder, document):
        stats = {n: v for n, v in row.items() if n not in SCHEMA.names and v is not None}
        return {n: row.get(n) for n in SCHEMA.names} | {"stats": stats}
    return None


def statistic_values(
    paths: Iterable[Path], statistic: str, stride: int = 1
) -> Iterator[npt.NDArray[Any]]:
    """Every `stride`-th value of a statistic, file by file; files without it are passed over."""
    for path in paths:
        file = pq.ParquetFile(path)
        if statistic in file.schema_arrow.names:
            column = file.read([statistic])[statistic].drop_null()
            yield column.to_numpy()[::stride]


def kept_document(folder: Path, document: str) -> dict[str, Any] | None:
    """A cleaned document by its id; None when it was dropped or never there."""
    for path, row in _rows_of(folder, document):
        number = path.stem.rpartition("-")[2]
        return find_document(folder / row["source"] / f"{number}.jsonl", document)
    return None


def kept_texts(folder: Path, documents: Collection[str]) -> dict[str, str]:
    """Texts of cleaned documents by their ids, in one pass; those not kept are left out."""
    texts: dict[str, str] = {}
    wanted = pa.array(sorted(documents), pa.string())
    for source in sorted({document.partition("/")[0] for document in documents}):
        for path in files(folder, source):
            ids = pq.read_table(path, columns=["id"])["id"]
            here = set(ids.filter(pc.is_in(ids, wanted)).to_pylist())
            cleaned = folder / source / f"{path.stem.rpartition('-')[2]}.jsonl"
            if here and cleaned.exists():
                rows = (row for row in read_json_lines(cleaned) if row["id"] in here)
                texts |= {row["id"]: row["text"] for row in rows}
    return texts


def _rows_of(folder: Path, document: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file and the row of a document's trace, if it has one."""
    for path in files(folder, document.partition("/")[0]):
        for row in pq.read_table(path, filters=[("id", "=", document)]).to_pylist():
            yield path, row
