"""The way of one document through the operators of a finished cleaning."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common.errors import DataError
from common.paths import display
from corpus.cleaning import document_trace
from corpus.cleaning.review.sample import read_sample
from corpus.cleaning.review.word_diff import in_line, word_diff

EXCERPT = 300
"""Characters of a text that are shown."""
DIFF = 20_000
"""Characters of the differences between two texts that are shown."""


def explain_document(
    folder: Path, document: str, text: str, recipes: Mapping[str, str]
) -> dict[str, Any]:
    """Explain, operator by operator, what cleaning did with a document.

    Args:
        folder: the cleaned corpus.
        document: its id.
        text: its text before cleaning.
        recipes: family -> name of its cleaning recipe.

    Returns:
        JSON values.

    Raises:
        DataError: the document has no trace.
    """
    trace = document_trace.find(folder, document)
    if trace is None:
        raise DataError(
            f"{display(folder)} has no trace of {document}, though it was normalised: run "
            "`steel verify` on the store"
        )
    ledger = json.loads((folder / "ledger.json").read_text("utf-8"))
    operators = [row for row in ledger["rows"] if row["source"] == trace["source"]]
    measured_by = {row["statistic"]: row["operator"] for row in ledger["statistics"]}
    kept = document_trace.kept_document(folder, document)
    listed = folder / "contamination.parquet"
    questions = pq.read_table(listed, filters=[("id", "=", document)]) if listed.exists() else None
    explanation: dict[str, Any] = {
        "folder": display(folder),
        "recipe": recipes[operators[0]["family"]],
        "kept": trace["dropped_by"] == 0,
        "bytes": [trace["bytes_in"], trace["bytes_out"]],
        "operators": list(_operators(trace, operators, measured_by, _sampled(folder, document))),
        "contains": [] if questions is None else questions.to_pylist(),
    }
    if kept is not None:
        explanation["text"] = kept["text"][:EXCERPT]
        if kept["text"] != text:
            explanation["diff"] = _diff(text, kept["text"])
    if trace["duplicate_of"]:
        original = document_trace.kept_document(folder, trace["duplicate_of"])
        explanation["duplicate_of"] = {
            "id": trace["duplicate_of"],
            "bits_apart": trace["stats"].get(document_trace.DISTANCE),
            "similarity": trace["stats"].get(document_trace.SIMILARITY),
            "text": original["text"][:EXCERPT] if original else "",
        }
    return explanation


def _diff(before: str, after: str) -> str:
    changes = in_line(word_diff(before, after))
    return changes[:DIFF] + ("…" if len(changes) > DIFF else "")


def _sampled(folder: Path, document: str) -> dict[int, str]:
    """Position -> changes of the operators in whose random sample the document is."""
    return {
        row["position"]: _diff(row["before"], row["after"])
        for row in read_sample(folder)
        if row["id"] == document and row["kind"] == "changed"
    }


def _operators(
    trace: Mapping[str, Any],
    operators: list[dict[str, Any]],
    measured_by: Mapping[str, str],
    diffs: Mapping[int, str],
) -> Iterator[dict[str, Any]]:
    """Yield the effect of each operator on the document, up to the one that dropped it."""
    sizes = {edit["operator"]: edit["bytes"] for edit in trace["edits"]}
    size = trace["bytes_in"]
    for row in operators:
        position, name = row["position"], row["operator"]
        values = {s: v for s, v in trace["stats"].items() if measured_by.get(s) == name}
        result: dict[str, Any] = {"position": position, "operator": name, "did": "left it alone"}
        if position in sizes:
            result |= {"did": "changed it", "bytes": [size, sizes[position]]}
            size = sizes[position]
            if position in diffs:
                result["diff"] = diffs[position]
        if values:
            result |= {"did": "measured it", "values": values}
        if position == trace["dropped_by"]:
            if trace["reason"]:
                result["reason"] = trace["reason"]
            result["did"] = "failed on it" if trace["failed"] else "dropped it"
        yield result
        if position == trace["dropped_by"]:
            return
