"""The report's section on contamination-adjusted scores: clean questions, and contaminated ones."""

from collections.abc import Mapping
from typing import Any

from common.reading.files import read_json_object
from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.language import Writer
from tasks.report.results import percent, points
from tasks.report.trace.numbers import Known, place_in, pointer

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
                texts = [
                    say.in_text(
                        text,
                        f"{line['title']}, {model}: what is not known",
                        place_in(
                            stage, ADJUSTED_FILE, pointer=pointer("rows", number, "unknown", place)
                        ),
                    )
                    for place, text in enumerate(line["unknown"])
                ]
                unknown.setdefault("; ".join(texts), {})[model] = None
    columns = [*PARTS.values(), "not checkable", "contaminated minus clean"]
    right = [say(f"column.{name}") for name in columns]
    parts = [say("adjusted.legend"), markdown_table(rows, right=right)]
    if unknown:
        parts.append(say("adjusted.unknown"))
        parts.append("\n".join(f"- {', '.join(names)}: {text}" for text, names in unknown.items()))
    found = sum(
        bool((line["contaminated"] or {}).get("num_questions"))
        for lines in adjusted.values()
        for line in lines
    )
    state = say("adjusted.some" if found else "adjusted.none")
    details = say.details(state, "\n\n".join(parts))
    return f"### {say('adjusted.title')}\n\n{details}"


def _row(
    model: str, line: Mapping[str, Any], number_of_row: int, stage: StageResult | None, say: Writer
) -> dict[str, str]:
    shots = line["num_fewshot"]
    row = {
        say("column.model"): model,
        say("column.benchmark"): line["title"],
        say("column.form"): say.word("form", line["form"]),
        say("column.worked examples"): say("adjusted.own")
        if shots is None
        else say.number(
            str(shots),
            f"{line['title']}: worked examples",
            shots,
            place_in(stage, ADJUSTED_FILE, pointer=pointer("rows", number_of_row, "num_fewshot")),
        ),
    }
    benchmark, title = line["benchmark"], line["title"]
    about = f"{title}, {shots} worked examples, {{}}: accuracy of {model} in per cent"

    def number(words: str, value: float, *names: str | int) -> Known:
        place = place_in(
            stage, ADJUSTED_FILE, pointer=pointer("rows", number_of_row, *names), part=benchmark
        )
        return Known(value=value, about=words, place=place)

    for name, column in PARTS.items():
        part = line[name]
        if part is None:
            row[say(f"column.{column}")] = say("adjusted.not_known")
            continue
        asked = number(f"{title}, {name}: questions", part["num_questions"], name, "num_questions")
        if part["accuracy"] is None:
            row[say(f"column.{column}")] = say("adjusted.few", n=say.known(str, asked))
            continue
        low, high = (percent(bound) for bound in part["interval_95"])
        shown = say("results.to", share=percent(part["accuracy"]), low=low, high=high)
        words = about.format(f"{name} questions")
        score = say.known(shown, number(words, part["accuracy"], name, "accuracy"))
        row[say(f"column.{column}")] = f"{score} / {say.known('{:,}'.format, asked)}"
    unchecked = line["not_checkable"]
    difference = "–"
    if line["difference"] is not None:
        value, low, high = (points(bound) for bound in line["difference"])
        words = about.format("contaminated minus clean questions")
        difference = say.known(
            say("results.to", share=value, low=low, high=high),
            number(words, line["difference"][0], "difference", 0),
        )
    sources = [
        f"{say.known('{:,}'.format, number(f'{title}: in {kind}', n, 'sources', kind))} {kind}"
        for kind, n in line["sources"].items()
    ]
    return row | {
        say("column.not checkable"): say("adjusted.not_known")
        if unchecked is None
        else say.known(
            "{:,}".format,
            number(
                f"{title}: questions that cannot be checked",
                unchecked["num_questions"],
                "not_checkable",
                "num_questions",
            ),
        ),
        say("column.contaminated minus clean"): difference,
        say("column.sources"): ", ".join(sources) or "–",
    }
