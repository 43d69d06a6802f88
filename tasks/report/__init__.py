"""Stage `report`: what a pipeline has shown, on one page, with the paper's figures beside it.

    the stages' folders ──gather──▶ facts ──▶ figures/*.png (light and dark)
                                      │            │
                                      └──▶ report.md ──▶ report.html (one file, no requests)

A stage that was not run is said to be not run; nothing is made up for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.files import write_text
from tasks.core.paper import load_paper, paper_files
from tasks.core.stage import StageResult, StageRun, stage
from tasks.report.data import gather
from tasks.report.figures import draw
from tasks.report.format import markdown
from tasks.report.page import html_page
from tasks.report.table import result_rows, result_table

__all__ = ["ReportConfig", "check", "report", "result_table"]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report is called."""

    title: str = ""
    """Heading; empty: the pipeline's name."""

    def recipe_files(self) -> list[Path]:
        """The paper's tables."""
        return paper_files()


def check(config: ReportConfig) -> None:
    """Refuse damaged tables of the paper before anything starts. Raises ConfigError."""
    load_paper()


@stage(version=1)
def report(
    run: StageRun,
    config: ReportConfig,
    *,
    normalized: StageResult | None = None,
    cleaned: StageResult | None = None,
    packed: StageResult | None = None,
    pretrain: StageResult | None = None,
    sft: Mapping[str, StageResult] | None = None,
    dpo: StageResult | None = None,
    evaluations: Mapping[str, StageResult] | None = None,
    kernels: StageResult | None = None,
) -> None:
    """Write report.md, report.html and figures/*.png."""
    facts = gather(
        normalized=normalized,
        cleaned=cleaned,
        packed=packed,
        pretrain=pretrain,
        sft=sft or {},
        dpo=dpo,
        evaluations=evaluations or {},
        kernels=kernels,
    )
    if config.title:
        facts.name = config.title
    pictures = draw(facts, run.folder / "figures")
    text = markdown(facts, load_paper(), pictures)
    write_text(run.folder / "report.md", text)
    page = html_page(text, title=f"Steel: {facts.name}", folder=run.folder)
    write_text(run.folder / "report.html", page)
    rows = result_rows(facts.results)
    if rows:
        run.table("results", [dict(row) for row in rows], "Accuracy with 95 % interval")
    run.note(pipeline=facts.name)
    run.count(pictures=len(pictures), models=len(facts.results))
    for path in (run.folder / "report.html", run.folder / "report.md"):
        run.track.artifact(path)
