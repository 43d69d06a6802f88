"""Evaluation questions that the contamination filter found in a document."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

MATCHES = "contamination_matches"
"""Statistic under which the filter leaves its rows, as JSON."""


def matches_of(stats: Mapping[str, Any], document: str) -> list[dict[str, Any]]:
    """The questions found in a document, a row each, from its statistics."""
    rows = json.loads(stats.get(MATCHES) or "[]")
    return [row | {"id": document} for row in rows]


def with_matches(document: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document with the questions that are still in it named in its `meta`."""
    names = sorted({f"{row['benchmark']}/{row['question_id']}" for row in rows if not row["cut"]})
    if not names:
        return document
    return document | {"meta": document["meta"] | {"contamination": names}}
