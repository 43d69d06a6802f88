"""The cleaning report and its attrition gates, as Prefect and MLflow artifacts."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from common.errors import DataError
from common.files import write_text
from corpus.cleaning import gates
from corpus.cleaning.quality.deciles import deciles
from corpus.cleaning.report import write_report
from corpus.cleaning.review.page import FILE_NAME as PAGE
from corpus.cleaning.review.page import sample_page
from corpus.cleaning.review.sample import read_sample
from tasks.core.artifacts import publish_artifact, run_logger
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun

LISTED_MATCHES = 1000


def publish_report(
    run: StageRun,
    ledger: Mapping[str, Any],
    recipes: Mapping[str, str],
    optional: Collection[str] = (),
) -> None:
    """Write the report and show it. Raises DataError when a source lost every document.

    Args:
        ledger: the ledger of all sources.
        recipes: family -> name of its cleaning recipe.
        optional: sources that may be empty.
    """
    from tasks.clean.picture import draw

    report = write_report(run.folder, ledger)
    draw(report.rows, run.folder / "attrition.png")
    title = "Sample of what cleaning changed, dropped and kept"
    write_text(run.folder / PAGE, sample_page(read_sample(run.folder), title))
    run.table("attrition", report.attrition, "Documents and bytes that each operator took out")
    run.table("cleaned", report.totals, "Documents and bytes before and after cleaning")
    run.table("ledger", report.rows, "Every operator and source: in, kept, changed, dropped")
    clusters = report.duplicates["largest"]
    run.table("near-duplicates", clusters, "The largest clusters of near-duplicates")
    if tenths := deciles(run.folder):
        run.table("quality", tenths, "Scores of web pages in tenths of each source, with examples")
    matches = report.matches[:LISTED_MATCHES]
    run.table("contamination", matches, "Evaluation questions found in documents")
    run.picture(run.folder / "attrition.png", "Where each source's bytes went")
    report.require_documents(recipes, optional)
    for total in report.totals:
        if not total["documents_kept"]:
            run.log.warning("%s is empty after cleaning, as it may be", total["source"])
    run.count(**report.counts)
    families = dict.fromkeys(total["family"] for total in report.totals)
    run.note(
        sources={total["source"]: total for total in report.totals},
        recipes={family: recipes[family] for family in families},
        contamination=dict(Counter(match["benchmark"] for match in report.matches)),
        **ledger["notes"],
    )


def enforce_gates(
    cleaned: StageResult, limits: Mapping[gates.Unit, gates.MaxDrop], recipes: Mapping[str, str]
) -> None:
    """Raise DataError, and show a table, if cleaning dropped more than a gate allows.

    Args:
        limits: gates on shares of documents, and of bytes.
        recipes: family -> name of its cleaning recipe.
    """
    rows = json.loads((cleaned.folder / "ledger.json").read_text("utf-8"))["rows"]
    found = [gate for unit, most in limits.items() for gate in gates.exceeded(rows, most, unit)]
    if not found:
        return
    publish_artifact(
        run_logger(),
        "table",
        key="attrition-gates",
        table=[gate.row() for gate in found],
        description="Attrition gates that cleaning exceeded",
    )
    raise DataError(gates.describe(found, rows, recipes, cleaned.folder))
