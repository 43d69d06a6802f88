"""Accuracies of every model on every benchmark: table, and the report's section on results.

Only a 95 % interval wholly on one side of chance is a result. The table is also
used by the command line and the Prefect page.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from common.reading.files import read_json_object
from tasks.core.manifest import StageResult
from tasks.core.markdown import NOT_RUN, markdown_table

SAMPLE_DATA = "sample-data"
"""Origin of generated questions."""

Results: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Model -> benchmark -> scores."""

ChanceComparison = Literal["above", "at", "below"]


def read_results(evaluation: StageResult) -> dict[str, dict[str, Any]]:
    """Benchmark -> scores, as the stage `evaluate` wrote them."""
    path = evaluation.folder / "results.json"
    return read_json_object(path)


def compare_with_chance(result: Mapping[str, Any]) -> ChanceComparison:
    """Compare the 95 % interval of an accuracy with chance; `at`: the interval holds it."""
    low, high = result["interval_95"]
    if low > result["chance"]:
        return "above"
    return "below" if high < result["chance"] else "at"


def percent(share: float) -> str:
    """Format a share in per cent, without the sign: 0.4321 -> 43.2."""
    return f"{100 * share:z.1f}"


def loss_text(nats: float) -> str:
    """Format a loss, alike in tables and pictures: 2.3456 -> 2.346."""
    return f"{nats:.3f}"


def accuracy_cell(result: Mapping[str, Any] | None) -> str:
    """Format accuracy and interval: `43.2 (38.1 to 48.4)`."""
    if result is None:
        return NOT_RUN
    low, high = result["interval_95"]
    return f"{percent(result['accuracy_micro'])} ({percent(low)} to {percent(high)})"


def benchmark_titles(results: Results) -> dict[str, str]:
    """Name -> title of every benchmark that any model was scored on, in order."""
    titles: dict[str, str] = {}
    for of_model in results.values():
        titles |= {name: result["title"] for name, result in of_model.items() if name not in titles}
    return titles


def result_table(evaluations: Mapping[str, StageResult]) -> list[dict[str, str]]:
    """Rows of models: accuracies in per cent with 95 % interval, and benchmarks above chance."""
    return result_rows({name: read_results(result) for name, result in evaluations.items()})


def result_rows(results: Results) -> list[dict[str, str]]:
    """Rows of `result_table`, from scores that were read already."""
    titles = benchmark_titles(results)
    rows = []
    for model, of_model in results.items():
        above = [
            titles[name]
            for name, result in of_model.items()
            if compare_with_chance(result) == "above"
        ]
        cells = {f"{title} %": accuracy_cell(of_model.get(name)) for name, title in titles.items()}
        rows.append({"model": model, **cells, "above chance": ", ".join(above) or "no"})
    return rows


def results_section(results: Results, picture: Callable[[str, str], str]) -> str:
    """Format accuracies, their comparison with chance, and the conditions of the evaluation."""
    titles = benchmark_titles(results)
    if not titles:
        return f"*Evaluation: {NOT_RUN}.*"
    columns = [f"{title} %" for title in titles.values()]
    parts = [
        _chance_summary(results, titles),
        picture("accuracy", "Accuracy of every model on every benchmark"),
        markdown_table(result_rows(results), right=columns),
        "Accuracy over all questions (micro), with Wilson's 95 % interval. A guess is right in "
        "25 % of cases.",
        markdown_table(_macro_rows(results, titles), right=columns),
        "Mean of the subjects' accuracies (macro), as C-Eval's and CMMLU's own tables have it.",
        "\n".join(f"- {line}" for line in _conditions(results, titles)),
        *(f"### {title} by subject\n\n{subject_table(results, n)}" for n, title in titles.items()),
    ]
    return "\n\n".join(parts)


def subject_table(results: Results, benchmark: str) -> str:
    """Format the accuracy of every model on each subject of a benchmark, in per cent.

    Few questions a subject: no intervals, and differences that say little.
    """
    scored = {m: of_model[benchmark] for m, of_model in results.items() if benchmark in of_model}
    numbers = {
        subject: found["num_questions"]
        for result in scored.values()
        for subject, found in result["subjects"].items()
    }
    rows = []
    for subject, number in sorted(numbers.items()):
        row = {"subject": subject, "questions": f"{number:,}"}
        for model, result in scored.items():
            found = result["subjects"].get(subject)
            row[f"{model} %"] = NOT_RUN if found is None else percent(found["accuracy"])
        rows.append(row)
    return markdown_table(rows, right=["questions", *(f"{model} %" for model in scored)])


def _macro_rows(results: Results, titles: Mapping[str, str]) -> list[dict[str, str]]:
    def macro(result: Mapping[str, Any] | None) -> str:
        return percent(result["accuracy_macro"]) if result else NOT_RUN

    return [
        {"model": model, **{f"{t} %": macro(of_model.get(n)) for n, t in titles.items()}}
        for model, of_model in results.items()
    ]


def _chance_summary(results: Results, titles: Mapping[str, str]) -> str:
    """List the accuracies whose interval lies wholly above or below chance."""
    lines: dict[str, list[str]] = {"above": [], "below": []}
    for model, of_model in results.items():
        for side, end, word in (("above", 0, "at least"), ("below", 1, "at most")):
            shown = [
                f"{titles[name]} {percent(result['accuracy_micro'])} %, "
                f"{word} {percent(result['interval_95'][end])} %"
                for name, result in of_model.items()
                if compare_with_chance(result) == side
            ]
            if shown:
                lines[side].append(f"- {model}: {'; '.join(shown)}")
    scores = [result for of_model in results.values() for result in of_model.values()]
    at = sum(compare_with_chance(result) == "at" for result in scores)
    parts = []
    if lines["above"]:
        parts.append("**Above chance** (the lower end of the 95 % interval is above 25 %):")
        parts.append("\n".join(lines["above"]))
        if at:
            parts.append(
                f"**At chance** (the interval holds 25 %): {at} of {len(scores)} scores. "
                "Differences between those say nothing."
            )
    else:
        parts.append(
            "**No model is above chance on any benchmark**: no interval lies wholly above 25 %. "
            "Differences between these models say nothing."
        )
    if lines["below"]:
        parts.append("**Below chance** (the upper end of the interval is below 25 %):")
        parts.append("\n".join(lines["below"]))
    parts.append(
        f"Of {len(scores)} such intervals {0.025 * len(scores):.1f} on average would lie above "
        "chance by luck alone, and as many below."
    )
    return "\n\n".join(parts)


def _conditions(results: Results, titles: Mapping[str, str]) -> list[str]:
    """Describe the questions and prompts of each benchmark."""
    lines, generated = [], []
    for name, title in titles.items():
        scores = {m: r[name] for m, r in results.items() if name in r}
        one = next(iter(scores.values()))
        notes = [
            f"{one['num_questions']:,} questions of the {one['split']} split",
            f"{one['num_subjects']} of {one['num_subjects_known']} subjects",
        ]
        if one.get("num_bad_rows"):
            rows = one["num_questions"] + one["num_bad_rows"]
            notes.append(f"scored {one['num_questions']:,} of {rows:,} rows, the others are bad")
        if one["limit"]:
            notes.append(f"at most {one['limit']} a subject")
        notes.append(f"{one['num_fewshot'] or 'no'} worked examples")
        cut = {m: r["num_truncated"] for m, r in scores.items() if r["num_truncated"]}
        if cut:
            listed = ", ".join(f"{model} {number}" for model, number in cut.items())
            notes.append(f"prompts that did not fit and lost their beginning: {listed}")
        lines.append(f"**{title}**: {'; '.join(notes)}.")
        if one.get("origin") == SAMPLE_DATA:
            generated.append(title)
    with_template = [
        m for m, of_model in results.items() if any(r["chat"] for r in of_model.values())
    ]
    lines.append(f"Asked through the chat template: {', '.join(with_template) or 'no model'}.")
    if generated:
        lines.append(
            f"The questions of {', '.join(generated)} come from the generated sample data, in "
            "those benchmarks' formats: these accuracies are not comparable with real ones."
        )
    return lines
