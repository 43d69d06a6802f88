"""The report as Markdown, in any of its languages: one program, whose texts are in language/."""

from collections.abc import Sequence

from tasks.core.paper.tables import Paper
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.sections.adjusted import adjusted_section
from tasks.report.sections.cost import cost_section
from tasks.report.sections.data import data_section
from tasks.report.sections.paper import paper_section
from tasks.report.sections.plan import plan_section
from tasks.report.sections.provenance import provenance_section
from tasks.report.sections.results import results_section
from tasks.report.sections.summary import summary_section
from tasks.report.sections.training import training_section


def format_report(
    data: ReportData,
    paper: Paper,
    pictures: Sequence[str],
    say: Writer | None = None,
    *,
    pictures_text: str = "",
    suffix: str = "",
) -> str:
    """Format the whole report.

    Args:
        data: results of all stages.
        paper: its tables.
        pictures: names of the figures/*.png that exist.
        say: language, and the numbers that are collected; None: English, none collected.
        pictures_text: remark on the pictures; "" for none.
        suffix: end of the pictures' file names, before `.png`.
    """
    say = say or Writer()

    def picture(name: str) -> str:
        alt = say(f"picture.{name}")
        if name in pictures:
            return f"![{alt}](figures/{name}{suffix}.png)"
        return f"*{alt}: {say('not_run')}.*"

    hints = [say("page.hint")] if say.numbers is not None else []
    hints += [text for text in [pictures_text] if text and pictures]
    sections = {
        "results": _joined(
            results_section(data, picture, say), adjusted_section(data.adjusted, data.stages, say)
        ),
        "cost": cost_section(data, say),
        "training": training_section(data, picture, say),
        "data": data_section(data, picture, say),
        "plan": plan_section(data, say),
        "paper": paper_section(data, paper, say),
        "provenance": provenance_section(data, say),
    }
    parts = [f"# Steel: {data.name}", summary_section(data, say), " ".join(hints)]
    for name, text in sections.items():
        parts += [f"## {say(f'section.{name}')}", text]
    return "\n\n".join(part for part in parts if part) + "\n"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
