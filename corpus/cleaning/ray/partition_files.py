"""Partitions of a corpus before and after Ray: rows for the operators, and what they make of them.

    <source>.jsonl ─▶ lay_out ─▶ rows/<part>.parquet ─▶ operators ─▶ records, survivors, duplicates
          └────────────────────────── assemble ◀──────────────────────────────┘
                                          └─▶ <source>/<number>.jsonl, documents/<part>.parquet

A document's uid is its partition's number << 32 | its line in it. `assemble` reads the partition's
lines once more, so `meta` never passes through Arrow (which would give every document the keys of
all others), documents come out in the order they went in, and memory is that of one partition.
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
from corpus.cleaning import document_trace as fates
from corpus.cleaning import contamination_matches
from corpus.partitions import Partition
from corpus.cleaning.ray.recorded_operators import RECORD, ROW, UID

LINES = 32
"""Bits of a uid that hold the line."""

ROWS_PER_GROUP = 1000
"""Rows of a parquet row group: the library's batch."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A partition and where its files are."""

    index: int
    """Its number among all partitions of the run."""
    partition: Partition
    """What it covers."""
    rows: Path
    """Its rows for the first operator."""
    output: Path
    """Folder of cleaned documents."""

    @property
    def cleaned(self) -> Path:
        """Its kept documents."""
        return self.output / self.partition.source / f"{self.partition.number:05d}.jsonl"

    @property
    def fates(self) -> Path:
        """What became of its documents; written last."""
        return self.output / "documents" / f"{self.partition.name}.parquet"

    @property
    def questions(self) -> Path:
        """Evaluation questions found in its documents, a row each."""
        return self.rows.with_suffix(".questions.json")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one run of the executor left behind."""

    positions: tuple[int, ...]
    """Places of its operators in the recipe, from 1."""
    records: Path | None
    """Folder `<part>/*.parquet` of records; None where a deduplicator ran."""
    survivors: Path
    """Folder `<part>/*.parquet` of the documents that are left."""
    duplicates: Path | None
    """Folder `<part>/*.parquet`: whose copies the others are; None where operators ran."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """What became of a partition's documents."""

    documents_in: int
    """Documents read."""
    documents_kept: int
    """Documents written."""
    documents_failed: int
    """Documents that an operator raised an error on."""
    bytes_in: int
    """UTF-8 bytes of the texts read."""
    bytes_kept: int
    """UTF-8 bytes of the texts written."""


def lay_out(piece: Piece) -> None:
    """Write a partition's rows."""
    if piece.rows.exists():
        return
    first = piece.index << LINES
    with complete_file(piece.rows) as file, pq.ParquetWriter(file, ROW, compression="zstd") as out:
        batch: list[tuple[int, str, str, str]] = []
        for line, document in enumerate(piece.partition.documents()):
            # Arrow takes no half surrogate pairs; nor does any operator's output.
            text = document["text"].encode("utf-8", "replace").decode()
            batch.append((first + line, document["id"], piece.partition.name, text))
            if len(batch) == ROWS_PER_GROUP:
                out.write_table(_table(batch))
                batch = []
        if batch:
            out.write_table(_table(batch))


def assemble(piece: Piece, steps: Sequence[Step], pieces: Sequence[Piece]) -> Count:
    """Write a partition's kept documents and everybody's fate. `pieces` are all of the run's."""
    rows, texts = _merge(piece, steps)
    ids = _ids({row["of"] for row in rows.values() if row["of"] is not None}, pieces)
    found: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    kept_bytes = kept = 0
    with complete_file(piece.cleaned) as file:
        for line, document in enumerate(piece.partition.documents()):
            uid = (piece.index << LINES) + line
            row = rows.pop(uid)
            mine = contamination_matches.found(row["stats"], document["id"])
            row["stats"].pop(contamination_matches.MATCHES, None)
            questions += mine
            size_in = len(document["text"].encode("utf-8", "replace"))
            size = size_in if row["size"] is None else row["size"]
            found.append(
                {
                    "id": document["id"],
                    "source": document["source"],
                    "bytes_in": size_in,
                    "bytes_out": size,
                    "dropped_by": row["dropped_by"],
                    "failed": row["failed"],
                    "edits": row["edits"],
                    "stats": row["stats"],
                    "duplicate_of": None if row["of"] is None else ids[row["of"]],
                }
            )
            if not row["dropped_by"]:
                text = texts.get(uid, document["text"])
                file.write(json_line(contamination_matches.flagged(document | {"text": text}, mine)))
                kept, kept_bytes = kept + 1, kept_bytes + size
    assert not rows, f"{len(rows)} records of {piece.partition.name} belong to no document"
    if not kept:  # a partition of which nothing is left has no file
        piece.cleaned.unlink()
    write_json(piece.questions, questions)
    fates.write(fates.table_of(found), piece.fates)
    return Count(
        documents_in=len(found),
        documents_kept=kept,
        bytes_kept=kept_bytes,
        documents_failed=sum(row["failed"] for row in found),
        bytes_in=sum(row["bytes_in"] for row in found),
    )


def count(table: pa.Table) -> Count:
    """The counts of a partition that was assembled earlier, from its fates."""
    kept = [not position for position in table["dropped_by"].to_pylist()]
    sizes = table["bytes_out"].to_pylist()
    return Count(
        documents_in=table.num_rows,
        documents_kept=sum(kept),
        documents_failed=sum(table["failed"].to_pylist()),
        bytes_in=sum(table["bytes_in"].to_pylist()),
        bytes_kept=sum(size for size, keep in zip(sizes, kept, strict=True) if keep),
    )


def _merge(piece: Piece, steps: Sequence[Step]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """uid -> what every step remembers of it, and uid -> text of those that are left."""
    part = piece.partition.name
    uids = pq.read_table(piece.rows, columns=[UID])[UID].to_pylist()
    rows: dict[int, dict[str, Any]] = {
        uid: {"dropped_by": 0, "failed": False, "size": None, "edits": [], "stats": {}, "of": None}
        for uid in uids
    }
    texts: dict[int, str] = {}
    alive = set(uids)
    for step in steps:
        if step.records is not None:
            found = {r[UID]: r for r in _read(step.records / part, RECORD.names)}
            # A document that a step neither kept nor dropped must never pass for either.
            assert found.keys() == alive, f"{part}: {len(found)} records of {len(alive)} documents"
            for uid, record in found.items():
                _note(rows[uid], record)
            survivors = {r[UID]: r["text"] for r in _read(step.survivors / part, [UID, "text"])}
            texts, left = survivors, set(survivors)
        else:
            assert step.duplicates is not None
            left = {r[UID] for r in _read(step.survivors / part, [UID])}
            copies = {r[UID]: r["of"] for r in _read(step.duplicates / part, [UID, "of"])}
            assert copies.keys() == alive - left, f"{part}: {len(copies)} copies"
            for uid, of in copies.items():
                rows[uid] |= {"dropped_by": step.positions[0], "of": of}
        alive = left
    return rows, texts


def _note(row: dict[str, Any], record: dict[str, Any]) -> None:
    edits = [edit.split(":") for edit in record["edits"].split(";") if edit]
    row["edits"] += [{"operator": int(op), "bytes": int(size)} for op, size in edits]
    row["stats"] |= json.loads(record["stats"] or "{}")
    row |= {name: record[name] for name in ("dropped_by", "failed", "size")}


def _ids(uids: set[int], pieces: Sequence[Piece]) -> dict[int, str]:
    """The ids of documents anywhere in the run."""
    ids: dict[int, str] = {}
    for index in sorted({uid >> LINES for uid in uids}):
        column = pq.read_table(pieces[index].rows, columns=["id"])["id"]
        for uid in uids:
            if uid >> LINES == index:
                ids[uid] = column[uid & ((1 << LINES) - 1)].as_py()
    return ids


def _read(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.parquet")):
        yield from pq.read_table(path, columns=list(columns)).to_pylist()


def _table(batch: Sequence[tuple[int, str, str, str]]) -> pa.Table:
    return pa.table([list(column) for column in zip(*batch, strict=True)], schema=ROW)
