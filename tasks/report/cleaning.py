"""Results of cleaning beyond numbers of documents: perplexity, duplicates, contamination.

ledger.json          percentiles of every statistic, by source
recipe-<family>.yaml the bound of the perplexity filter
duplicates.json      clusters of near-duplicates
manifest.json        benchmark questions that were looked for, and how many were found
"""

import json
from dataclasses import dataclass, field
from typing import Any

from common.paths import display
from common.recipes import read_yaml
from tasks.core.manifest import StageResult


@dataclass(frozen=True, kw_only=True)
class SourcePercentiles:
    """Percentiles of a statistic over one source."""

    source: str
    place: int
    """Place in the list `statistics` of the ledger."""
    percentiles: list[float]
    """The smallest value, the 1st to the 99th percentile, and the largest."""
    most: float | None = None
    """Documents above it are dropped."""


@dataclass(frozen=True, kw_only=True)
class CleaningData:
    """Results of the stage `clean` beside its texts."""

    folder: str = ""
    """Its folder."""
    perplexity: list[SourcePercentiles] = field(default_factory=list)
    """Of each source in which it is measured."""
    duplicates: dict[str, Any] = field(default_factory=dict)
    """`clusters`, `duplicates`, `sources`, `largest`."""
    contamination: dict[str, int] = field(default_factory=dict)
    """Benchmark -> places where one of its questions was found."""
    contaminated_documents: int = 0
    """Documents that contain one or more."""
    questions: dict[str, Any] = field(default_factory=dict)
    """Content of the index of questions; empty when none were looked for."""
    action: str = "drop"
    """Configured action on them: drop, flag or off."""


def read_cleaning(cleaned: StageResult) -> CleaningData:
    """Read a finished stage `clean`. Parts that an older one lacks are left empty."""
    folder, notes = cleaned.folder, cleaned.manifest.get("notes", {})
    ledger = json.loads((folder / "ledger.json").read_text("utf-8"))
    duplicates = folder / "duplicates.json"
    config = cleaned.manifest.get("config", {})
    families = {row["source"]: row["family"] for row in ledger["rows"]}
    return CleaningData(
        folder=display(folder),
        perplexity=[
            SourcePercentiles(
                source=row["source"],
                place=place,
                percentiles=row["percentiles"],
                most=_max_perplexity(cleaned, families.get(row["source"], "")),
            )
            for place, row in enumerate(ledger.get("statistics", []))
            if row["statistic"] == "perplexity"
        ],
        duplicates=json.loads(duplicates.read_text("utf-8")) if duplicates.exists() else {},
        contamination=notes.get("contamination", {}),
        contaminated_documents=int(
            cleaned.manifest.get("counts", {}).get("contaminated_documents", 0)
        ),
        questions=notes.get("contamination_index", {}),
        action=config.get("contamination", {}).get("action", "drop"),
    )


def _max_perplexity(cleaned: StageResult, family: str) -> float | None:
    path = cleaned.folder / f"recipe-{family}.yaml"
    if not path.exists():
        return None
    for operator in read_yaml(path)["process"]:
        if isinstance(operator, dict) and "perplexity_filter" in operator:
            return float((operator["perplexity_filter"] or {}).get("max_ppl", 1500))
    return None
