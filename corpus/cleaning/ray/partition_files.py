"""Partitions of a corpus before and after Ray: rows for the operators, and files with the results.

    <source>.jsonl ─▶ write_operator_rows ─▶ rows/<part>.parquet ─▶ operators ─▶ records, survivors,
          │                                                                      duplicates
          └─────────────────────────── write_results ◀─────────────────────────────┘
                                            └─▶ <source>/<number>.jsonl, documents/<part>.parquet

A document's uid is its partition's number << 32 | its line in it. `write_results` reads the
partition's lines once more, so `meta` never becomes a table (which would give every document the
keys of all others: filters see it as JSON), documents come out in the order they went in, and
memory is that of one partition.
Both functions run on workers.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.files import complete_file, json_line, write_json
from corpus.cleaning import contamination_matches, document_trace
from corpus.cleaning.ray.recorded_operators import RECORD, ROW, UID
from corpus.partitions import Partition

LINES = 32
"""Bits of a uid that hold the line."""

ROWS_PER_GROUP = 1000
"""Rows of a parquet row group: the library's batch."""


@dataclass(frozen=True, kw_only=True)
class PartitionFiles:
    """A partition and the paths of its files."""

    index: int
    """Its number among all partitions of the run."""
    partition: Partition
    """The range of its source."""
    rows: Path
    """Its rows for the first operator."""
    output: Path
    """Folder of cleaned documents."""

    @property
    def cleaned(self) -> Path:
        """Its kept documents."""
        return self.output / self.partition.source / f"{self.partition.number:05d}.jsonl"

    @property
    def document_trace(self) -> Path:
        """Traces of its documents; written last."""
        return self.output / "documents" / f"{self.partition.name}.parquet"

    @property
    def questions(self) -> Path:
        """Evaluation questions found in its documents, a row each."""
        return self.rows.with_suffix(".questions.json")


@dataclass(frozen=True, kw_only=True)
class ExecutorOutput:
    """Folders written by one run of the executor."""

    positions: tuple[int, ...]
    """Places of its operators in the recipe, from 1."""
    records: Path | None
    """Folder `<part>/*.parquet` of records; None where a deduplicator ran."""
    survivors: Path
    """Folder `<part>/*.parquet` of the documents that were not dropped."""
    duplicates: Path | None
    """Folder `<part>/*.parquet` of copies and their originals; None where operators ran."""


def write_operator_rows(files: PartitionFiles) -> None:
    """Write a partition's rows for the first operator, unless that was done before."""
    if files.rows.exists():
        return
    first = files.index << LINES
    rows: list[dict[str, Any]] = []
    for line, document in enumerate(files.partition.documents()):
        # Arrow takes no half surrogate pairs; nor does any operator's output.
        text = document["text"].encode("utf-8", "replace").decode()
        rows.append(
            {
                UID: first + line,
                "id": document["id"],
                "part": files.partition.name,
                "text": text,
                "meta": json.dumps(document.get("meta") or {}),
            }
        )
    table = pa.Table.from_pylist(rows, schema=ROW)
    with complete_file(files.rows) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROWS_PER_GROUP)


def write_results(
    files: PartitionFiles, outputs: Sequence[ExecutorOutput], all_files: Sequence[PartitionFiles]
) -> None:
    """Write a partition's kept documents and the traces of all of its documents.

    Args:
        outputs: what the executor wrote, run by run.
        all_files: the files of all partitions of the run, by index.
    """
    rows, texts = _merge(files, outputs)
    ids = _ids({row["of"] for row in rows.values() if row["of"] is not None}, all_files)
    traces: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    num_kept = 0
    with complete_file(files.cleaned) as file:
        for line, document in enumerate(files.partition.documents()):
            uid = (files.index << LINES) + line
            row = rows.pop(uid)
            matches = contamination_matches.matches_of(row["stats"], document["id"])
            row["stats"].pop(contamination_matches.MATCHES, None)
            questions += matches
            size_in = len(document["text"].encode("utf-8", "replace"))
            size = size_in if row["size"] is None else row["size"]
            traces.append(
                {
                    "id": document["id"],
                    "source": document["source"],
                    "bytes_in": size_in,
                    "bytes_out": size,
                    "dropped_by": row["dropped_by"],
                    "failed": row["failed"],
                    "edits": row["edits"],
                    "reason": row["stats"].pop(document_trace.REASON, None) or None,
                    "stats": row["stats"],
                    "duplicate_of": None if row["of"] is None else ids[row["of"]],
                }
            )
            if not row["dropped_by"]:
                text = texts.get(uid, document["text"])
                file.write(
                    json_line(
                        contamination_matches.with_matches(document | {"text": text}, matches)
                    )
                )
                num_kept += 1
    assert not rows, f"{len(rows)} records of {files.partition.name} belong to no document"
    if not num_kept:  # a partition of which no document is left has no file
        files.cleaned.unlink()
    write_json(files.questions, questions)
    document_trace.write(document_trace.table_of(traces), files.document_trace)


def _merge(
    files: PartitionFiles, outputs: Sequence[ExecutorOutput]
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """uid -> the records of all runs together, and uid -> text of the documents that are kept."""
    part = files.partition.name
    uids = pq.read_table(files.rows, columns=[UID])[UID].to_pylist()
    rows: dict[int, dict[str, Any]] = {
        uid: {"dropped_by": 0, "failed": False, "size": None, "edits": [], "stats": {}, "of": None}
        for uid in uids
    }
    texts: dict[int, str] = {}
    remaining = set(uids)
    for output in outputs:
        if output.records is not None:
            found = {r[UID]: r for r in _read(output.records / part, RECORD.names)}
            # A document that a run neither kept nor dropped must never pass for either.
            assert found.keys() == remaining, (
                f"{part}: {len(found)} records of {len(remaining)} documents"
            )
            for uid, record in found.items():
                _note(rows[uid], record)
            survivors = {r[UID]: r["text"] for r in _read(output.survivors / part, [UID, "text"])}
            texts, survivor_uids = survivors, set(survivors)
        else:
            assert output.duplicates is not None
            survivor_uids = {r[UID] for r in _read(output.survivors / part, [UID])}
            copies = {r[UID]: r["of"] for r in _read(output.duplicates / part, [UID, "of"])}
            assert copies.keys() == remaining - survivor_uids, f"{part}: {len(copies)} copies"
            for uid, of in copies.items():
                rows[uid] |= {"dropped_by": output.positions[0], "of": of}
        remaining = survivor_uids
    return rows, texts


def _note(row: dict[str, Any], record: dict[str, Any]) -> None:
    edits = [edit.split(":") for edit in record["edits"].split(";") if edit]
    row["edits"] += [{"operator": int(op), "bytes": int(size)} for op, size in edits]
    row["stats"] |= json.loads(record["stats"] or "{}")
    row |= {name: record[name] for name in ("dropped_by", "failed", "size")}


def _ids(uids: set[int], all_files: Sequence[PartitionFiles]) -> dict[int, str]:
    """The ids of documents anywhere in the run."""
    ids: dict[int, str] = {}
    for index in sorted({uid >> LINES for uid in uids}):
        column = pq.read_table(all_files[index].rows, columns=["id"])["id"]
        for uid in uids:
            if uid >> LINES == index:
                ids[uid] = column[uid & ((1 << LINES) - 1)].as_py()
    return ids


def _read(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.parquet")):
        yield from pq.read_table(path, columns=list(columns)).to_pylist()
