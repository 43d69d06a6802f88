"""Stage `report`: all results of a pipeline on one page, with the paper's figures beside them.

    the stages' folders ──gather──▶ data ──▶ figures/*.png (light and dark)
                                      │            │
                                      ├──▶ report.md ──▶ report.html (one file, no requests)
                                      ├──▶ report.zh.md ──▶ report.zh.html
                                      └──▶ numbers.json: every number, its id, where it is from

    sections/    text of each section     language/    texts by language
    trace/       from a number to raw files (`steel trace`)
    cards/       cards of models and data, which the report keeps in its folder cards/

A stage that was not run is named as such.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import StageConfig, errors_of
from common.errors import SteelError
from common.files import write_text
from common.paths import display
from tasks.core.artifacts import publish_artifact
from tasks.core.paper.tables import load_paper, paper_files
from tasks.core.stage import StageResult, StageRun, stage
from tasks.report.in_prefect import artifact_text
from tasks.report.results import result_rows, result_table

if TYPE_CHECKING:
    from tasks.report.trace.numbers import Numbers

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


@stage(version=8)
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
    adjusted: Mapping[str, StageResult] | None = None,
    checkpoints: StageResult | None = None,
) -> None:
    """Write report.md and report.html, the same in Chinese, numbers.json, cards of
    models and data, and figures/*.png."""
    from tasks.report.data import gather
    from tasks.report.figures import draw, suffix_of
    from tasks.report.format import format_report
    from tasks.report.language import LANGUAGES, Writer
    from tasks.report.page import html_page, page_name
    from tasks.report.trace.numbers import NUMBERS_FILE, Numbers

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
        adjusted=adjusted or {},
        checkpoints=checkpoints,
    )
    if config.title:
        data.name = config.title
    pictures = draw(data, run.folder / "figures")
    paper, numbers = load_paper(), Numbers()
    pages = []
    for language in LANGUAGES:
        say = Writer(language, numbers)
        end = suffix_of(language)
        remark = say("page.pictures") if language == "zh" and not end else ""
        text = format_report(data, paper, pictures, say, pictures_text=remark, suffix=end)
        title = f"Steel: {data.name}"
        page = html_page(text, title=title, folder=run.folder, language=language, switch=True)
        pages.append(run.folder / page_name(language))
        write_text(pages[-1].with_suffix(".md"), text)
        write_text(pages[-1], page)
    _write_cards(run, data.stages, numbers)
    numbers.write(run.folder / NUMBERS_FILE)
    rows = result_rows(data.results)
    if rows:
        run.table("results", [dict(row) for row in rows], "Accuracy with 95 % interval")
    final = run.folder.with_suffix("") / pages[0].name
    first = pages[0].with_suffix(".md").read_text("utf-8")
    publish_artifact(
        run.log,
        "markdown",
        key="report",
        description=f"Report of {data.name}",
        markdown=artifact_text(first, run.folder, display(final)),
    )
    run.note(pipeline=data.name)
    run.count(pictures=len(pictures), models=len(data.results), numbers=len(numbers.by_id))
    for path in (*pages, *(page.with_suffix(".md") for page in pages)):
        run.track.artifact(path)


def _write_cards(run: StageRun, stages: Mapping[str, StageResult], numbers: "Numbers") -> None:
    """Write the cards of every model of the report, into cards/<model>/; collect their numbers."""
    from tasks.report.cards import card_files

    for name, model in stages.items():
        if model.stage not in ("pretrain", "sft", "dpo"):
            continue
        scored = stages.get(f"evaluate {name}")
        store = run.store or model.folder.parent.parent
        scores = [scored] if scored is not None else []
        files = card_files(store, model, evaluations=scores, numbers=numbers)
        for file, text in files.items():
            path = run.folder / "cards" / name.replace(" ", "-") / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
