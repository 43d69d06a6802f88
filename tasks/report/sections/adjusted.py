"""The report's section on contamination-adjusted scores: clean questions, and contaminated ones."""

from collections.abc import Mapping
from typing import Any

from common.reading.files import read_json_object
from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.language import Writer
from tasks.report.results import percent
from tasks.report.trace.numbers import place_in, pointer

ADJUSTED_FILE = "adjusted.json"

PARTS = {"full": "all questions %", "clean": "clean %", "contaminated": "contaminated %"}
"""Part of adjusted.json -> its column."""


def read_rows(stage: StageResult) -> list[dict[str, Any]]:
    """The rows that the stage `adjusted_scores` wrote. Raises DataError for a damaged file."""
    rows: list[dict[str, Any]] = read_json_object(stage.folder / ADJUSTED_FILE)["rows"]
    return rows


def adjusted_section(
    adjusted: Mapping[str, list[dict[str, Any]]], stages: Mapping[str, StageResult], say: Writer
) -> str:
    """Format the scores of every model on clean and on contaminated questions.

    Args:
        adjusted: model -> rows of adjusted.json.
        stages: `adjusted_scores <model>` -> the stage that wrote them.
        say: texts and numbers.
    """
    if not adjusted:
        return ""
    rows: list[dict[str, str]] = []
    unknown: dict[str, dict[str, None]] = {}
    for model, lines in adjusted.items():
        stage = stages.get(f"adjusted_scores {model}")
        for number, line in enumerate(lines):
            rows.append(_row(model, line, number, stage, say))
            if line["unknown"]:
                unknown.setdefault("; ".join(line["unknown"]), {})[model] = None
    columns = [*PARTS.values(), "not checkable", "contaminated minus clean"]
    right = [say(f"column.{name}") for name in columns]
    parts = [f"### {say('adjusted.title')}", say("adjusted.legend")]
    parts.append(markdown_table(rows, right=right))
    if unknown:
        parts.append(say("adjusted.unknown"))
        parts.append("\n".join(f"- {', '.join(names)}: {text}" for text, names in unknown.items()))
    return "\n\n".join(parts)


def _row(
    model: str, line: Mapping[str, Any], number: int, stage: StageResult | None, say: Writer
) -> dict[str, str]:
    shots = line["num_fewshot"]
    row = {
        say("column.model"): model,
        say("column.benchmark"): line["title"],
        say("column.form"): say.word("form", line["form"]),
        say("column.worked examples"): say("adjusted.own") if shots is None else str(shots),
    }
    for name, column in PARTS.items():
        part = line[name]
        if part is None:
            cell = say("adjusted.not_known")
        elif part["accuracy"] is None:
            cell = say("adjusted.few", n=part["num_questions"])
        else:
            low, high = (percent(bound) for bound in part["interval_95"])
            share = percent(part["accuracy"])
            cell = say.number(
                f"{say('results.to', share=share, low=low, high=high)} / {part['num_questions']:,}",
                f"{line['title']}, {shots} worked examples, {name} questions: accuracy of {model} "
                "in per cent",
                part["accuracy"],
                place_in(
                    stage,
                    ADJUSTED_FILE,
                    pointer=pointer("rows", number, name, "accuracy"),
                    part=line["benchmark"],
                ),
            )
        row[say(f"column.{column}")] = cell
    known = line["not_checkable"]
    difference = ""
    if line["difference"] is not None:
        value, low, high = (f"{100 * bound:+.1f}" for bound in line["difference"])
        difference = say("results.to", share=value, low=low, high=high)
    return row | {
        say("column.not checkable"): (
            say("adjusted.not_known") if known is None else f"{known['num_questions']:,}"
        ),
        say("column.contaminated minus clean"): difference or "–",
        say("column.sources"): ", ".join(f"{n} {k}" for n, k in line["sources"].items()) or "–",
    }
