"""What cleaning did, as files, as tables in Prefect and MLflow, and as a picture.

ledger.parquet, ledger.json    source x operator: documents and bytes in, kept, changed, dropped;
                               percentiles of every statistic
documents/<source>-*.parquet   what became of each document (corpus/cleaning/document_trace.py)
dropped-examples.jsonl         a few documents that each operator dropped
duplicates.json                clusters of near-duplicates: how many, how large, the largest
contamination.parquet          documents that contain evaluation questions
attrition.png                  where each source's documents went
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DataError
from common.files import complete_file, json_line, write_json
from common.paths import display
from common.recipes import recipe_path
from corpus.cleaning import document_trace
from tasks.clean.picture import draw
from tasks.core.stage import StageRun

if TYPE_CHECKING:
    from tasks.clean import CleanConfig

MOST_VALUES = 1_000_000
"""Values of a statistic that percentiles are taken from, spread evenly over a source."""
SHOWN_CLUSTERS = 20
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
    ]
)


def account(run: StageRun, config: "CleanConfig", ledgers: list[dict[str, Any]]) -> None:
    """Publish the ledgers. Raises DataError when a source lost every document."""
    rows = [row for ledger in ledgers for row in ledger["rows"]]
    totals = _totals(rows)
    kinds = {total["source"]: total["kind"] for total in totals}
    measured = {name: op for ledger in ledgers for name, op in ledger["statistics"].items()}
    statistics = [row for source in kinds for row in _statistics(run.folder, source, measured)]
    with complete_file(run.folder / "ledger.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    write_json(
        run.folder / "ledger.json",
        {
            "sources": totals,
            "rows": rows,
            "statistics": statistics,
            "changed_examples": [e for ledger in ledgers for e in ledger["changed"]],
        },
    )
    with complete_file(run.folder / "dropped-examples.jsonl") as file:
        for example in (e for ledger in ledgers for e in ledger["dropped"]):
            file.write(json_line(example))
    duplicates = _duplicates(run.folder)
    write_json(run.folder / "duplicates.json", duplicates)
    matches = [match for ledger in ledgers for match in ledger["matches"]]
    with complete_file(run.folder / "contamination.parquet") as file:
        pq.write_table(pa.Table.from_pylist(matches, schema=CONTAMINATION), file)
    draw(rows, run.folder / "attrition.png")
    _show(run, rows, totals, duplicates, matches)
    for total in totals:
        if not total["documents_kept"]:
            raise _lost(total, rows, config)
    contaminated = Counter(match["benchmark"] for match in matches)
    run.count(
        documents_in=sum(t["documents_in"] for t in totals),
        documents_kept=sum(t["documents_kept"] for t in totals),
        bytes_in=sum(t["bytes_in"] for t in totals),
        bytes_kept=sum(t["bytes_kept"] for t in totals),
        documents_failed=sum(row["documents_failed"] for row in rows),
        near_duplicates=duplicates["duplicates"],
        contaminated_documents=len({match["id"] for match in matches}),
    )
    run.note(
        sources={t["source"]: t for t in totals},
        recipes={kind: config.recipe_of(kind) for kind in dict.fromkeys(kinds.values())},
        contamination=dict(contaminated),
        **{key: value for ledger in ledgers for key, value in ledger["notes"].items()},
    )


def _show(
    run: StageRun,
    rows: list[dict[str, Any]],
    totals: list[dict[str, Any]],
    duplicates: Mapping[str, Any],
    matches: list[dict[str, Any]],
) -> None:
    run.table("attrition", _attrition(rows), "Documents that each operator dropped, by source")
    run.table("cleaned", totals, "Documents and bytes before and after cleaning")
    run.table("ledger", rows, "Every operator and source: in, kept, changed, dropped")
    run.table("near-duplicates", duplicates["largest"], "The largest clusters of near-duplicates")
    run.table("contamination", matches[:1000], "Evaluation questions found in documents")
    run.picture(run.folder / "attrition.png", "Where each source's documents went")


def _totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per source: what came in at the first operator, what left the last."""
    totals: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(
            row["source"],
            {
                "source": row["source"],
                "kind": row["kind"],
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


def _attrition(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The operators that changed or dropped something, one row each, a column per source."""
    table: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        line = table.setdefault(
            (row["kind"], row["position"]),
            {"kind": row["kind"], "operator": row["operator"], "in": 0, "changed": 0, "dropped": 0},
        )
        line["in"] += row["documents_in"]
        line["changed"] += row["documents_changed"]
        line["dropped"] += row["documents_dropped"]
    sources = list(dict.fromkeys(row["source"] for row in rows))
    for row in rows:
        table[row["kind"], row["position"]][row["source"]] = row["documents_dropped"]
    blank = dict.fromkeys(("kind", "operator", "in", "changed", "dropped", *sources), "")
    return [blank | line for line in table.values()]


def _statistics(folder: Path, source: str, measured: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    """Percentiles of whatever filters measured in a source."""
    files = document_trace.files(folder, source)
    total = sum(pq.read_metadata(path).num_rows for path in files)
    stride = max(1, math.ceil(total / MOST_VALUES))
    for statistic, operator in sorted(measured.items(), key=lambda item: (item[1], item[0])):
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
    ][:SHOWN_CLUSTERS]
    for row in largest:
        row["text"] = _text_of(folder, str(row["kept"]))[:EXCERPT]
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


def _text_of(folder: Path, document: str) -> str:
    found = document_trace.kept_document(folder, document)
    return str(found["text"]) if found else ""


def _lost(total: dict[str, Any], rows: list[dict[str, Any]], config: "CleanConfig") -> DataError:
    source = total["source"]
    droppers = sorted(
        (row for row in rows if row["source"] == source and row["documents_dropped"]),
        key=lambda row: -row["documents_dropped"],
    )
    where = ", ".join(f"{row['operator']} {row['documents_dropped']}" for row in droppers[:4])
    recipe = display(recipe_path("clean", config.recipe_of(total["kind"])))
    return DataError(
        f"Corpus {source!r} is empty after cleaning: all {total['documents_in']} documents were "
        f"dropped ({where}). Loosen these operators in {recipe}, name another recipe as "
        f"clean.{total['kind']}, or leave the corpus out."
    )
