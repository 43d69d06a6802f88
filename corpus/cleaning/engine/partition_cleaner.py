"""The two passes over a partition: operators first, then the kept documents' files.

    apply_operators   partition ─▶ operators ─▶ <filtered>/<name>/: kept.jsonl, hashes, examples,
                                                document_trace.parquet, matches
    (deduplication/duplicates.py looks for duplicates, over the hashes of all partitions)
    write_kept        kept.jsonl + Duplicates ─▶ <output>/<source>/<number>.jsonl,
                                                 <output>/documents/<name>.parquet

The result of each pass over a partition appears by one rename, when it is complete, so an
interrupted run continues with the first partition that is missing. The result does not depend on
which process works on a partition, or when.
"""

import contextlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from data_juicer.ops.base_op import OP

from common.files import PARTIAL, complete_file, json_line, publish_folder, write_json
from corpus.cleaning import contamination_matches, document_trace
from corpus.cleaning.deduplication.duplicates import (
    UNKNOWN,
    Duplicates,
    RecipeDeduplicator,
    hash_table,
)
from corpus.cleaning.engine import pipeline
from corpus.cleaning.ledger import EXCERPT, Examples
from corpus.partitions import Partition
from corpus.recipes import Family


@dataclass(frozen=True, kw_only=True)
class FamilyOperators:
    """The recipe of one family, built."""

    operators: Sequence[OP]
    """Its mappers and filters."""
    names: Sequence[str]
    """Names of all operators in the ledger, deduplicators included."""
    deduplicators: Mapping[int, int]
    """Place of a shared deduplicator that the recipe has -> its place in the ledger."""


@dataclass(kw_only=True)
class PartitionCleaner:
    """The operators and folders that all worker processes share.

    Workers inherit it when they are forked, so a language model of gigabytes lies in memory once.
    """

    families: Mapping[Family, FamilyOperators]
    """The recipe of each family."""
    family_of: Mapping[str, Family]
    """Source -> its family."""
    deduplicators: Sequence[RecipeDeduplicator]
    """The deduplicators of all recipes."""
    filtered: Path
    """Folder of partitions that went through the operators, one folder each."""
    output: Path
    """Folder of the cleaned corpus."""
    reports: Path
    """Folder of reports on cleaned partitions, each written after everything else of its own."""
    examples: int
    """Examples for each operator and source."""
    duplicates: Duplicates | None = None
    """The duplicates among the survivors; set before `write_kept`."""
    bytes_done: Any = field(default_factory=lambda: multiprocessing.Value("q", 0))
    """Bytes of normalised text read so far, by all workers."""

    def apply_operators(self, partition: Partition) -> None:
        """Take a partition through all mappers and filters, unless that was done before."""
        folder = self.filtered / partition.name
        if folder.exists():
            self._add(partition.size)
            return
        aside = folder.with_name(f"{folder.name}{PARTIAL}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        family = self.families[self.family_of[partition.source]]
        deduplicators = [o for o in self.deduplicators if o.position in family.deduplicators]
        examples = Examples(most=self.examples)
        rows: list[dict[str, Any]] = []
        hashes: dict[int, list[dict[str, Any]]] = {one.position: [] for one in deduplicators}
        found: list[dict[str, Any]] = []
        num_survivors = 0
        with (aside / "kept.jsonl").open("wb") as kept:
            items = (pipeline.TracedDocument.of(d) for d in self._documents(partition))
            for batch in pipeline.batches(items):
                survivors = pipeline.run_operators(family.operators, batch, examples)
                num_survivors += len(survivors)
                for one in deduplicators:
                    hashes[one.position] += one.hashes([item.text for item in survivors])
                kept.writelines(json_line(_cleaned(item)) for item in survivors)
                rows += [item.trace() for item in batch]
                found += [row for item in batch for row in _matches(item)]
        document_trace.write(document_trace.table_of(rows), aside / "document_trace.parquet")
        for one in deduplicators:
            table = hash_table(hashes[one.position], one)
            pq.write_table(table, aside / f"hashes-{one.position:02d}.parquet")
        write_json(aside / "examples.json", examples.as_json())
        write_json(aside / "matches.json", found)
        write_json(aside / "counts.json", {"survivors": num_survivors})
        publish_folder(aside, folder)

    def _documents(self, partition: Partition) -> Iterator[dict[str, Any]]:
        for _, line in partition.lines():
            self._add(len(line))
            yield json.loads(line)

    def _add(self, num_bytes: int) -> None:
        with self.bytes_done.get_lock():
            self.bytes_done.value += num_bytes

    def write_kept(self, work: tuple[Partition, int]) -> None:
        """Write the kept documents of a filtered partition, unless that was done before.

        Args:
            work: the partition, and the number of its first survivor in the corpus.
        """
        partition, offset = work
        report = self.reports / f"{partition.name}.json"
        if report.exists():
            return
        folder = self.filtered / partition.name
        family = self.families[self.family_of[partition.source]]
        examples = Examples(most=self.examples)
        examples.take(json.loads((folder / "examples.json").read_text("utf-8")))
        table = pq.read_table(folder / "document_trace.parquet")
        columns = {n: table[n].to_pylist() for n in ("id", "dropped_by", "duplicate_of")}
        rows = [row for row, by in enumerate(columns["dropped_by"]) if by == 0]
        apart: list[float | None] = [None] * table.num_rows
        out = self.output / partition.source / f"{partition.number:05d}.jsonl"
        num_kept = 0
        with (folder / "kept.jsonl").open("rb") as lines, contextlib.ExitStack() as stack:
            kept = None
            for number, (line, row) in enumerate(zip(lines, rows, strict=True), offset):
                by = 0 if self.duplicates is None else int(self.duplicates.dropped_by[number])
                if by == 0:
                    # A partition of which no document is left has no file.
                    kept = kept or stack.enter_context(complete_file(out))
                    kept.write(line)
                    num_kept += 1
                    continue
                assert self.duplicates is not None
                by = family.deduplicators[by]
                columns["dropped_by"][row] = by
                original = int(self.duplicates.representative[number])
                shown: dict[str, Any] = {}
                if original != UNKNOWN:
                    columns["duplicate_of"][row] = self.duplicates.ids[original]
                    apart[row] = float(self.duplicates.distance[number])
                    shown = {"duplicate_of": columns["duplicate_of"][row]}
                if examples.wants("dropped", by, partition.source):
                    examples.add(
                        "dropped",
                        {
                            "position": by,
                            "operator": family.names[by - 1],
                            "source": partition.source,
                            "id": columns["id"][row],
                            "measured": {document_trace.DISTANCE: apart[row]},
                            **shown,
                            "text": json.loads(line)["text"][:EXCERPT],
                        },
                    )
        for name, column in (*columns.items(), (document_trace.DISTANCE, apart)):
            table = _with(table, name, column)
        entries = document_trace.ledger_entries(table, family.names)
        assert not entries or num_kept == entries[-1].documents_kept, partition.name
        documents = self.output / "documents" / f"{partition.name}.parquet"
        documents.parent.mkdir(exist_ok=True)
        document_trace.write(table, documents)
        report.parent.mkdir(exist_ok=True)
        write_json(
            report,
            {
                "entries": [asdict(entry) for entry in entries],
                **examples.as_json(),
                "matches": json.loads((folder / "matches.json").read_text("utf-8")),
            },
        )


def _cleaned(item: pipeline.TracedDocument) -> dict[str, Any]:
    """The document as the next stage reads it."""
    return contamination_matches.with_matches(item.document | {"text": item.text}, _matches(item))


def _matches(item: pipeline.TracedDocument) -> list[dict[str, Any]]:
    return contamination_matches.matches_of(item.stats, item.document["id"])


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """The table with a column of these values."""
    if name not in table.schema.names:
        return table.append_column(name, pa.array(values, pa.float64()))
    place = table.schema.get_field_index(name)
    kind = table.schema.field(name)
    return table.set_column(place, kind, pa.array(values, kind.type))
