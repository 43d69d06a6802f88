"""The cleaning report, computed from the ledger and the document traces of a cleaned folder.

ledger.parquet, ledger.json    source x operator: documents and bytes in, kept, changed, dropped;
                               percentiles of every statistic
dropped-examples.jsonl         a few documents that each operator dropped
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

MAX_VALUES = 1_000_000
"""Values of a statistic that percentiles are taken from, spread evenly over a source."""
LISTED_CLUSTERS = 20
"""Largest clusters of near-duplicates listed."""
EXCERPT = 120

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
        """Documents that each operator changed and dropped, with a column for each source."""
        table: dict[tuple[str, int], dict[str, Any]] = {}
        for row in sorted(self.rows, key=lambda r: (r["family"], r["position"])):
            line = table.setdefault(
                (row["family"], row["position"]),
                {
                    "family": row["family"],
                    "operator": row["operator"],
                    "in": 0,
                    "changed": 0,
                    "dropped": 0,
                },
            )
            line["in"] += row["documents_in"]
            line["changed"] += row["documents_changed"]
            line["dropped"] += row["documents_dropped"]
            line[row["source"]] = row["documents_dropped"]
        sources = [total["source"] for total in self.totals]
        blank = dict.fromkeys(("family", "operator", "in", "changed", "dropped", *sources), "")
        return [blank | line for line in table.values()]

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
            "changed_examples": ledger["changed"],
        },
    )
    with complete_file(folder / "ledger.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    with complete_file(folder / "dropped-examples.jsonl") as file:
        for example in ledger["dropped"]:
            file.write(json_line(example))
    duplicates = _duplicates(folder)
    write_json(folder / "duplicates.json", duplicates)
    matches = ledger["matches"]
    with complete_file(folder / "contamination.parquet") as file:
        pq.write_table(pa.Table.from_pylist(matches, schema=CONTAMINATION), file)
    return CleaningReport(rows=rows, totals=totals, duplicates=duplicates, matches=matches)


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
    for total in totals.values():
        total["kept_percent"] = round(
            100 * total["documents_kept"] / max(1, total["documents_in"]), 1
        )
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
