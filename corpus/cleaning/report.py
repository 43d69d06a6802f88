"""The cleaning report, computed from the ledger and the document traces of a cleaned folder.

ledger.parquet, ledger.json    source x operator: documents and bytes in, kept, changed, dropped;
                               percentiles of every statistic
review-sample.jsonl            documents that each operator changed or dropped, and kept ones, taken
                               at random (review/sample.py); review.html has them side by side
dropped-examples.jsonl         the beginnings of those that were dropped
duplicates.json                clusters of near-duplicates: number, sizes, the largest
contamination.parquet          documents that contain evaluation questions
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DataError
from common.files import complete_file, json_line, write_json
from common.paths import display
from corpus.cleaning import document_trace
from corpus.cleaning.recipe_sets import recipe_file
from corpus.cleaning.review import sample
from corpus.cleaning.review.sample import excerpts

MAX_VALUES = 1_000_000
"""Values of a statistic that percentiles are taken from, spread evenly over a source."""
LISTED_CLUSTERS = 20
"""Largest clusters of near-duplicates listed."""
EXCERPT = 120
ATTRITION_SUMS = ("in", "changed", "dropped", "bytes dropped", "bytes cut")
"""Columns of the attrition: documents, then bytes of dropped and of changed documents."""

CONTAMINATION = pa.schema(
    [
        ("id", pa.string()),
        ("benchmark", pa.string()),
        ("question_id", pa.string()),
        ("overlap", pa.float64()),
        ("excerpt", pa.string()),
        ("question", pa.string()),
        ("cut", pa.bool_()),
    ]
)

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CleaningReport:
    """Results of a cleaning, over all sources."""

    rows: Rows
    """The ledger: a row for each source and operator."""
    totals: Rows
    """A row for each source: documents and bytes before and after."""
    duplicates: dict[str, Any]
    """Clusters of near-duplicates over all sources."""
    matches: Rows
    """Evaluation questions found, a row for each document and question."""

    @property
    def counts(self) -> dict[str, int]:
        """Sums over all sources."""
        sums = {
            name: sum(total[name] for total in self.totals)
            for name in ("documents_in", "documents_kept", "bytes_in", "bytes_kept")
        }
        return sums | {
            "documents_failed": sum(row["documents_failed"] for row in self.rows),
            "near_duplicates": self.duplicates["duplicates"],
            "contaminated_documents": len({match["id"] for match in self.matches}),
        }

    @property
    def attrition(self) -> Rows:
        """Documents that each operator changed and dropped, bytes that it took out by either.

        Columns of sources hold the bytes that it took out there, in percent of what came in.
        """
        table: dict[tuple[str, int], dict[str, Any]] = {}
        bytes_in: Counter[str] = Counter()
        for row in sorted(self.rows, key=lambda r: (r["family"], r["position"])):
            line = table.setdefault(
                (row["family"], row["position"]),
                {"family": row["family"], "operator": row["operator"]}
                | dict.fromkeys(ATTRITION_SUMS, 0),
            )
            line["in"] += row["documents_in"]
            line["changed"] += row["documents_changed"]
            line["dropped"] += row["documents_dropped"]
            line["bytes dropped"] += row["bytes_dropped"]
            line["bytes cut"] += row["bytes_edited"]
            bytes_in[row["family"]] += row["bytes_in"] if row["position"] == 1 else 0
            taken = row["bytes_dropped"] + row["bytes_edited"]
            line[row["source"]] = percent(taken, self._bytes_in[row["source"]])
        for line in table.values():
            taken = line["bytes dropped"] + line["bytes cut"]
            line["bytes %"] = percent(taken, bytes_in[line["family"]])
        sources = [total["source"] for total in self.totals]
        blank = dict.fromkeys(("family", "operator", *ATTRITION_SUMS, "bytes %", *sources), "")
        return [blank | line for line in table.values()]

    @property
    def _bytes_in(self) -> dict[str, int]:
        return {total["source"]: total["bytes_in"] for total in self.totals}

    def require_documents(self, recipes: Mapping[str, str], optional: Collection[str] = ()) -> None:
        """Raise DataError for a source that lost every document.

        Args:
            recipes: family -> name of its cleaning recipe.
            optional: sources that may be empty.
        """
        for total in self.totals:
            if total["documents_kept"] or total["source"] in optional:
                continue
            source, family = total["source"], total["family"]
            droppers = sorted(
                (row for row in self.rows if row["source"] == source and row["documents_dropped"]),
                key=lambda row: -row["documents_dropped"],
            )
            where = ", ".join(f"{r['operator']} {r['documents_dropped']}" for r in droppers[:4])
            raise DataError(
                f"Corpus {source!r} is empty after cleaning: all {total['documents_in']} documents "
                f"were dropped ({where}). Loosen these operators in "
                f"{display(recipe_file(recipes[family]))}, name another recipe as "
                f"clean.family_recipes.{family}, or leave the corpus out."
            )


def write_report(folder: Path, ledger: Mapping[str, Any]) -> CleaningReport:
    """Write the report's files into a cleaned folder, from its ledger."""
    rows = ledger["rows"]
    totals = _totals(rows)
    operators = ledger["statistics"]
    write_json(
        folder / "ledger.json",
        {
            "sources": totals,
            "rows": rows,
            "statistics": [
                row for total in totals for row in _statistics(folder, total["source"], operators)
            ],
            "changed_examples": [
                {n: v for n, v in row.items() if n not in ("cut", "after")} | excerpts(row)
                for row in ledger["sample"].get("changed", ())
            ],
        },
    )
    with complete_file(folder / "ledger.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    with complete_file(folder / "dropped-examples.jsonl") as file:
        for example in ledger["sample"].get("dropped", ()):
            shown = {n: v for n, v in example.items() if n not in ("before", "cut")}
            file.write(json_line(shown | {"text": example["before"][: sample.EXCERPT]}))
    _write_sample(folder, ledger["sample"], {row["source"]: row["family"] for row in rows})
    duplicates = _duplicates(folder)
    write_json(folder / "duplicates.json", duplicates)
    matches = ledger["matches"]
    with complete_file(folder / "contamination.parquet") as file:
        pq.write_table(pa.Table.from_pylist(matches, schema=CONTAMINATION), file)
    return CleaningReport(rows=rows, totals=totals, duplicates=duplicates, matches=matches)


def _write_sample(
    folder: Path, taken: Mapping[sample.Kind, Rows], family_of: Mapping[str, str]
) -> None:
    """Write the sample; copies come with the text that was kept in their place."""
    listed = [
        {"kind": kind, "family": family_of[example["source"]]} | example
        for kind in sample.KINDS
        for example in taken.get(kind, ())
    ]
    texts = document_trace.kept_texts(
        folder, {row["duplicate_of"] for row in listed if "duplicate_of" in row}
    )
    for row in listed:
        if original := texts.get(row.get("duplicate_of", "")):
            row["kept_instead"] = original[: sample.LONGEST]
    sample.write_sample(folder, listed)


def percent(part: int, whole: int) -> float:
    """A share in percent; 0 of nothing."""
    return round(100 * part / max(1, whole), 2) + 0.0  # never -0.0


def _totals(rows: Rows) -> Rows:
    """One row per source: documents into its first operator, and out of its last."""
    totals: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(
            row["source"],
            {
                "source": row["source"],
                "family": row["family"],
                "documents_in": row["documents_in"],
                "bytes_in": row["bytes_in"],
            },
        )
        total["documents_kept"], total["bytes_kept"] = row["documents_kept"], row["bytes_kept"]
        total["bytes_cut"] = total.get("bytes_cut", 0) + row["bytes_edited"]
    for total in totals.values():
        total["kept_percent"] = round(percent(total["documents_kept"], total["documents_in"]), 1)
        for name in ("kept", "cut"):
            total[f"bytes_{name}_percent"] = percent(total[f"bytes_{name}"], total["bytes_in"])
    return list(totals.values())


def _statistics(
    folder: Path, source: str, operators: Mapping[str, str]
) -> Iterable[dict[str, Any]]:
    """Percentiles of every statistic of a source."""
    files = document_trace.files(folder, source)
    total = sum(pq.read_metadata(path).num_rows for path in files)
    stride = max(1, math.ceil(total / MAX_VALUES))
    for statistic, operator in sorted(operators.items(), key=lambda item: (item[1], item[0])):
        parts = list(document_trace.statistic_values(files, statistic, stride))
        values = np.concatenate(parts) if parts else np.zeros(0)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        ordered = np.quantile(values, np.linspace(0, 1, 101), method="nearest")
        yield {
            "operator": operator,
            "source": source,
            "statistic": statistic,
            "documents": len(values) * stride,
            "percentiles": [round(float(v), 4) for v in ordered],
        }


def _duplicates(folder: Path) -> dict[str, Any]:
    """Clusters of near-duplicates over all sources."""
    copies: Counter[str] = Counter()
    by_pair: Counter[tuple[str, str]] = Counter()
    sample: dict[str, str] = {}
    for path in document_trace.files(folder):
        table = pq.read_table(path, columns=["id", "source", "duplicate_of"])
        table = table.filter(pa.compute.is_valid(table["duplicate_of"]))
        for row in table.to_pylist():
            original = row["duplicate_of"]
            copies[original] += 1
            sample.setdefault(original, row["id"])
            by_pair[row["source"], original.partition("/")[0]] += 1
    largest = [
        {"kept": kept, "copies": count, "one_copy": sample[kept]}
        for kept, count in sorted(copies.items(), key=lambda item: (-item[1], item[0]))
    ][:LISTED_CLUSTERS]
    for row in largest:
        found = document_trace.kept_document(folder, str(row["kept"]))
        row["text"] = str(found["text"])[:EXCERPT] if found else ""
    sizes = Counter(count + 1 for count in copies.values())
    return {
        "clusters": len(copies),
        "duplicates": copies.total(),
        "sizes": {str(size): sizes[size] for size in sorted(sizes)},
        "sources": [
            {"dropped_from": mine, "kept_in": theirs, "documents": count}
            for (mine, theirs), count in by_pair.most_common()
        ],
        "largest": largest,
    }
