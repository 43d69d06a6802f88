"""Stage `report`: all results of a pipeline on one page, with the paper's figures beside them.

    the stages' folders ──gather──▶ data ──▶ figures/*.png (light and dark)
                                      │            │
                                      └──▶ report.md ──▶ report.html (one file, no requests)

A stage that was not run is named as such.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.config import StageConfig, errors_of
from common.errors import SteelError
from common.files import write_text
from tasks.core.paper.tables import load_paper, paper_files
from tasks.core.stage import StageResult, StageRun, stage
from tasks.report.results import result_rows, result_table

__all__ = ["ReportConfig", "report", "result_table"]


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """Title of the report."""

    title: str = ""
    """Heading; empty: the pipeline's name."""

    def recipe_files(self) -> list[Path]:
        """The paper's tables."""
        return paper_files()

    def check(self) -> Iterator[SteelError]:
        yield from errors_of(load_paper)


@stage(version=2)
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
    contamination: StageResult | None = None,
) -> None:
    """Write report.md, report.html and figures/*.png."""
    from tasks.report.data import gather
    from tasks.report.figures import draw
    from tasks.report.format import format_report
    from tasks.report.page import html_page

    data = gather(
        normalized=normalized,
        cleaned=cleaned,
        packed=packed,
        pretrain=pretrain,
        sft=sft or {},
        dpo=dpo,
        evaluations=evaluations or {},
        kernels=kernels,
        contamination=contamination,
    )
    if config.title:
        data.name = config.title
    pictures = draw(data, run.folder / "figures")
    text = format_report(data, load_paper(), pictures)
    write_text(run.folder / "report.md", text)
    page = html_page(text, title=f"Steel: {data.name}", folder=run.folder)
    write_text(run.folder / "report.html", page)
    rows = result_rows(data.results)
    if rows:
        run.table("results", [dict(row) for row in rows], "Accuracy with 95 % interval")
    run.note(pipeline=data.name)
    run.count(pictures=len(pictures), models=len(data.results))
    for path in (run.folder / "report.html", run.folder / "report.md"):
        run.track.artifact(path)
