"""The two passes over a partition: operators first, then the kept documents' files.

    apply_operators   partition ─▶ operators ─▶ <filtered>/<name>/: kept.jsonl, kept.ends, hashes,
                                                sample, document_trace.parquet, matches
    (deduplication/duplicates.py looks for duplicates, over the hashes of all partitions)
    write_kept        kept.jsonl + Duplicates ─▶ <output>/<source>/<number>.jsonl,
                                                 <output>/documents/<name>.parquet

The result of each pass over a partition appears by one rename, when it is complete, so an
interrupted run continues with the first partition that is missing. The result does not depend on
which process works on a partition, or when.
"""

import contextlib
import itertools
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
from corpus.cleaning.deduplication.duplicates import UNKNOWN, Duplicates
from corpus.cleaning.deduplication.recipe_deduplicators import RecipeDeduplicator, hash_table
from corpus.cleaning.deduplication.repeated_lines import lines_among
from corpus.cleaning.deduplication.survivor_texts import LINES as LINES_FILE
from corpus.cleaning.deduplication.survivor_texts import write_ends
from corpus.cleaning.engine import pipeline
from corpus.cleaning.review.sample import KEPT, Sample
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
    """Documents in the sample, of each kind, operator and source."""
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
        deduplicators = self._deduplicators(family)
        sample = Sample(most=self.examples)
        rows: list[dict[str, Any]] = []
        hashes: dict[int, list[dict[str, Any]]] = {one.position: [] for one in deduplicators}
        found: list[dict[str, Any]] = []
        sizes: list[int] = []
        with (aside / LINES_FILE).open("wb") as kept:
            items = (pipeline.TracedDocument.of(d) for d in self._documents(partition))
            for batch in pipeline.batches(items):
                survivors = pipeline.run_operators(family.operators, batch, sample)
                for one in deduplicators:
                    hashes[one.position] += one.hashes([item.text for item in survivors])
                lines = [json_line(_cleaned(item)) for item in survivors]
                kept.writelines(lines)
                sizes += map(len, lines)
                rows += [item.trace() for item in batch]
                found += [row for item in batch for row in _matches(item)]
        document_trace.write(document_trace.table_of(rows), aside / "document_trace.parquet")
        for one in deduplicators:
            table = hash_table(hashes[one.position], one)
            pq.write_table(table, aside / f"hashes-{one.position:02d}.parquet")
        write_json(aside / "sample.json", sample.as_json())
        write_json(aside / "matches.json", found)
        write_ends(aside, sizes)
        write_json(aside / "counts.json", {"survivors": len(sizes)})
        publish_folder(aside, folder)

    def _deduplicators(self, family: FamilyOperators) -> list[RecipeDeduplicator]:
        """The deduplicators that a family's recipe has."""
        return [one for one in self.deduplicators if one.position in family.deduplicators]

    def _repeated(
        self, taker: RecipeDeduplicator | None, folder: Path, length: int
    ) -> Iterator[frozenset[int]]:
        """For each survivor of a partition, hashes of its repeated lines."""
        if taker is None or self.duplicates is None:
            return itertools.repeat(frozenset(), length)
        file = folder / f"hashes-{taker.position:02d}.parquet"
        return lines_among(file, self.duplicates.repeated[taker.position])

    def _apart(self, number: int) -> tuple[dict[str, float | None], str | None]:
        """Distance or similarity of a copy, and the id of the document kept in its place."""
        found = self.duplicates
        assert found is not None
        original = int(found.representative[number])
        if original == UNKNOWN:
            return {document_trace.DISTANCE: None}, None
        if similarity := float(found.similarity[number]):
            measured = {document_trace.SIMILARITY: similarity}
        else:
            measured = {document_trace.DISTANCE: float(found.distance[number])}
        return {**measured}, found.ids[original]

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
        sample = Sample(most=self.examples)
        sample.take(json.loads((folder / "sample.json").read_text("utf-8")))
        table = pq.read_table(folder / "document_trace.parquet")
        columns = {
            n: table[n].to_pylist()
            for n in ("id", "dropped_by", "duplicate_of", "edits", "bytes_out")
        }
        rows = [row for row, by in enumerate(columns["dropped_by"]) if by == 0]
        apart: dict[str, list[float | None]] = {
            name: [None] * table.num_rows
            for name in (document_trace.DISTANCE, document_trace.SIMILARITY)
        }
        taker = next((o for o in self._deduplicators(family) if o.takes_lines_out), None)
        out = self.output / partition.source / f"{partition.number:05d}.jsonl"
        num_kept = 0
        with (folder / LINES_FILE).open("rb") as lines, contextlib.ExitStack() as stack:
            kept = None
            everything = zip(lines, rows, self._repeated(taker, folder, len(rows)), strict=True)
            for number, (line, row, repeated) in enumerate(everything, offset):
                by = 0 if self.duplicates is None else int(self.duplicates.dropped_by[number])
                by = family.deduplicators[by] if by else 0
                about = {"source": partition.source, "id": columns["id"][row]}
                if by == 0 and repeated:
                    assert taker is not None
                    place = family.deduplicators[taker.position]
                    about |= {"position": place, "operator": family.names[place - 1]}
                    document = json.loads(line)
                    text = taker.built.without(document["text"], repeated.__contains__)
                    if text is None:
                        columns["dropped_by"][row] = place
                        sample.add("dropped", about | {"measured": {}} | _text_of(document))
                        continue
                    if text != document["text"]:
                        size = len(text.encode("utf-8", "replace"))
                        columns["edits"][row].append({"operator": place, "bytes": size})
                        columns["bytes_out"][row] = size
                        sample.add("changed", about | _text_of(document) | {"after": text})
                        line = json_line(document | {"text": text})
                if by == 0:
                    # A partition of which no document is left has no file.
                    kept = kept or stack.enter_context(complete_file(out))
                    kept.write(line)
                    num_kept += 1
                    about |= {"position": 0, "operator": KEPT}
                    if sample.wants("kept", about):
                        sample.add("kept", about | _text_of(json.loads(line)))
                    continue
                columns["dropped_by"][row] = by
                measured, original = self._apart(number)
                if original is not None:
                    columns["duplicate_of"][row] = original
                for name, value in measured.items():
                    apart[name][row] = value
                about |= {"position": by, "operator": family.names[by - 1]}
                if sample.wants("dropped", about):
                    shown: dict[str, Any] = {} if original is None else {"duplicate_of": original}
                    shown |= {"measured": measured} | _text_of(json.loads(line))
                    sample.add("dropped", about | shown)
        for name, column in (*columns.items(), *apart.items()):
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
                "sample": sample.as_json(),
                "matches": json.loads((folder / "matches.json").read_text("utf-8")),
            },
        )


def _cleaned(item: pipeline.TracedDocument) -> dict[str, Any]:
    """The document as the next stage reads it."""
    return contamination_matches.with_matches(item.document | {"text": item.text}, _matches(item))


def _text_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Text and meta data of a document, for an example."""
    return {"before": document["text"], document_trace.META: document.get(document_trace.META)}


def _matches(item: pipeline.TracedDocument) -> list[dict[str, Any]]:
    return contamination_matches.matches_of(item.stats, item.document["id"])


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """The table with a column of these values."""
    if name not in table.schema.names:
        return table.append_column(name, pa.array(values, pa.float64()))
    place = table.schema.get_field_index(name)
    kind = table.schema.field(name)
    return table.set_column(place, kind, pa.array(values, kind.type))
