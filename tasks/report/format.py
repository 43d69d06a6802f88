"""The report as Markdown, in any of its languages: one program, whose texts are in language/."""

from collections.abc import Sequence

from tasks.core.markdown import markdown_table
from tasks.core.paper.tables import Paper
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.sections.adjusted import adjusted_section
from tasks.report.sections.cost import cost_section
from tasks.report.sections.data import data_section
from tasks.report.sections.paper import paper_section
from tasks.report.sections.results import results_section
from tasks.report.sections.training import training_section


def format_report(
    data: ReportData, paper: Paper, pictures: Sequence[str], say: Writer | None = None
) -> str:
    """Format the whole report.

    Args:
        data: results of all stages.
        paper: its tables.
        pictures: names of the figures/*.png that exist.
        say: language, and the numbers that are collected; None: English, none collected.
    """
    say = say or Writer()

    def picture(name: str) -> str:
        alt = say(f"picture.{name}")
        if name in pictures:
            return f"![{alt}](figures/{name}.png)"
        return f"*{alt}: {say('not_run')}.*"

    hints = [say("page.hint")] if say.numbers is not None else []
    hints += [text for text in [say("page.pictures")] if text and pictures]
    sections = {
        "results": _joined(
            results_section(data.results, data.stages, picture, say),
            adjusted_section(data.adjusted, data.stages, say),
        ),
        "data": data_section(data, picture, say),
        "training": training_section(data, picture, say),
        "cost": cost_section(data, say),
        "paper": paper_section(data, paper, say),
        "provenance": _provenance_section(data, say),
    }
    parts = [f"# Steel: {data.name}", _summary(data, say), " ".join(hints)]
    for name, text in sections.items():
        parts += [f"## {say(f'section.{name}')}", text]
    return "\n\n".join(part for part in parts if part) + "\n"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _summary(data: ReportData, say: Writer) -> str:
    tokens = sum(source.tokens or 0 for source in data.sources)
    base = data.trainings.get("base")
    tuned = [name for name in data.trainings if name != "base"]
    parts = []
    if data.parameters is not None:
        parts.append(say("summary.parameters", n=f"{data.parameters:,}"))
    if data.vocabulary is not None:
        parts.append(say("summary.vocabulary", n=f"{data.vocabulary:,}"))
    if tokens:
        parts.append(say("summary.packed", n=f"{tokens:,}", sources=len(data.sources)))
    if base and "tokens" in base.counts:
        parts.append(say("summary.read", n=f"{base.counts['tokens']:,.0f}"))
    if tuned:
        parts.append(say("summary.tuned", n=len(tuned)))
    seconds = sum(row.seconds for row in data.provenance)
    if data.provenance:
        stages = len(data.provenance)
        parts.append(say("summary.minutes", n=f"{seconds / 60:.1f}", stages=stages))
    if not parts:
        return say("summary.nothing")
    return say("summary.line", parts=("; " if say.language == "en" else "；").join(parts))


def _provenance_section(data: ReportData, say: Writer) -> str:
    if not data.provenance:
        return f"*{say('not_run')}.*"
    rows = [
        {
            say("column.stage"): row.stage,
            say("column.key"): f"`{row.key}`",
            say("column.finished (UTC)"): row.finished,
            say("column.seconds"): f"{row.seconds:,.1f}",
            say("column.commit"): f"`{row.commit[:12]}`"
            + (say("provenance.changes") if row.commit.endswith("+") else ""),
        }
        for row in data.provenance
    ]
    software: dict[str, set[str]] = {}
    for row in data.provenance:
        for library, version in row.software.items():
            software.setdefault(library, set()).add(version)
    versions = [
        {say("column.software"): library, say("column.version"): ", ".join(sorted(found))}
        for library, found in software.items()
    ]
    return "\n\n".join(
        [
            say("provenance.text"),
            markdown_table(rows, right=[say("column.seconds")]),
            markdown_table(versions),
        ]
    )
