"""The report's section on results: accuracies, their comparison with chance, the conditions."""

from collections.abc import Callable, Mapping
from typing import Any

from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.language import Writer
from tasks.report.results import (
    SAMPLE_DATA,
    Results,
    benchmark_titles,
    compare_with_chance,
    is_written,
    percent,
)
from tasks.report.trace.numbers import Place, place_in, pointer


def results_section(
    results: Results, stages: Mapping[str, StageResult], picture: Callable[[str], str], say: Writer
) -> str:
    """Format accuracies, their comparison with chance, and the conditions of the evaluation.

    Args:
        results: model -> benchmark -> scores.
        stages: `evaluate <model>` -> the stage that scored it.
        picture: Markdown of a picture by its name.
        say: texts and numbers.
    """
    titles = benchmark_titles(results)
    if not titles:
        return say("results.absent")
    columns = [f"{title} %" for title in titles.values()]
    parts = [
        _chance_summary(results, titles, say),
        picture("accuracy"),
        markdown_table(_micro_rows(results, titles, stages, say), right=columns),
        say("results.micro"),
        markdown_table(_macro_rows(results, titles, stages, say), right=columns),
        say("results.macro"),
        "\n".join(f"- {line}" for line in _conditions(results, titles, say)),
    ]
    for name, title in titles.items():
        parts.append(f"### {say('results.by_subject', title=title)}")
        parts.append(subject_table(results, name, stages, say))
    return "\n\n".join(parts)


def score_place(stages: Mapping[str, StageResult], model: str, *names: str) -> Place | None:
    """Place of a score in the file that `evaluate` wrote; None where the stage is not known."""
    stage = stages.get(f"evaluate {model}")
    return place_in(stage, "results.json", pointer=pointer(*names), part=names[0])


def accuracy(
    result: Mapping[str, Any] | None,
    model: str,
    benchmark: str,
    stages: Mapping[str, StageResult],
    say: Writer,
) -> str:
    """Accuracy with its interval and its id; `not run` where there is none."""
    if result is None:
        return say("not_run")
    low, high = (percent(bound) for bound in result["interval_95"])
    share = result["accuracy_micro"]
    return say.number(
        say("results.to", share=percent(share), low=low, high=high),
        f"{result['title']}, accuracy of {model} in per cent",
        share,
        score_place(stages, model, benchmark, "accuracy_micro"),
    )


def subject_table(
    results: Results, benchmark: str, stages: Mapping[str, StageResult], say: Writer
) -> str:
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
        row = {say("column.subject"): subject, say("column.questions"): f"{number:,}"}
        for model, result in scored.items():
            found = result["subjects"].get(subject)
            row[f"{model} %"] = (
                say("not_run")
                if found is None
                else say.number(
                    percent(found["accuracy"]),
                    f"{result['title']}, {subject}: accuracy of {model} in per cent",
                    found["accuracy"],
                    score_place(stages, model, benchmark, "subjects", subject, "accuracy"),
                )
            )
        rows.append(row)
    right = [say("column.questions"), *(f"{model} %" for model in scored)]
    return markdown_table(rows, right=right) if rows else f"*{say('not_run')}.*"


def _micro_rows(
    results: Results, titles: Mapping[str, str], stages: Mapping[str, StageResult], say: Writer
) -> list[dict[str, str]]:
    rows = []
    for model, of_model in results.items():
        above = [t for n, t in titles.items() if n in of_model and _is_above(of_model[n])]
        cells = {
            f"{title} %": accuracy(of_model.get(name), model, name, stages, say)
            for name, title in titles.items()
        }
        last = {say("column.above chance"): ", ".join(above) or say("results.no")}
        rows.append({say("column.model"): model, **cells, **last})
    return rows


def _is_above(result: Mapping[str, Any]) -> bool:
    return compare_with_chance(result) == "above"


def _macro_rows(
    results: Results, titles: Mapping[str, str], stages: Mapping[str, StageResult], say: Writer
) -> list[dict[str, str]]:
    def macro(model: str, name: str) -> str:
        result = results[model].get(name)
        if result is None:
            return say("not_run")
        return say.number(
            percent(result["accuracy_macro"]),
            f"{result['title']}, mean accuracy of {model} over subjects in per cent",
            result["accuracy_macro"],
            score_place(stages, model, name, "accuracy_macro"),
        )

    return [
        {say("column.model"): model, **{f"{t} %": macro(model, n) for n, t in titles.items()}}
        for model in results
    ]


def _chance_summary(results: Results, titles: Mapping[str, str], say: Writer) -> str:
    """List the accuracies whose interval lies wholly above or below chance."""
    lines: dict[str, list[str]] = {"above": [], "below": []}
    for model, of_model in results.items():
        for side, end, text in (("above", 0, "at_least"), ("below", 1, "at_most")):
            stated = [
                say(
                    f"results.{text}",
                    title=titles[name],
                    share=percent(result["accuracy_micro"]),
                    end=percent(result["interval_95"][end]),
                )
                for name, result in of_model.items()
                if compare_with_chance(result) == side
            ]
            if stated:
                lines[side].append(f"- {model}: {'; '.join(stated)}")
    scores = [result for of_model in results.values() for result in of_model.values()]
    at = sum(compare_with_chance(result) == "at" for result in scores)
    parts = []
    if lines["above"]:
        parts += [say("results.above"), "\n".join(lines["above"])]
        if at:
            parts.append(say("results.at", n=at, all=len(scores)))
    else:
        parts.append(say("results.none"))
    if lines["below"]:
        parts += [say("results.below"), "\n".join(lines["below"])]
    parts.append(say("results.luck", n=len(scores), share=f"{0.025 * len(scores):.1f}"))
    return "\n\n".join(parts)


def _conditions(results: Results, titles: Mapping[str, str], say: Writer) -> list[str]:
    """Describe the questions and prompts of each benchmark."""
    lines, generated = [], []
    for name, title in titles.items():
        scores = {m: r[name] for m, r in results.items() if name in r}
        one = next(iter(scores.values()))
        notes = [
            say("results.questions", n=f"{one['num_questions']:,}", split=one["split"]),
            say("results.subjects", n=one["num_subjects"], all=one["num_subjects_known"]),
        ]
        if one.get("num_bad_rows"):
            rows = one["num_questions"] + one["num_bad_rows"]
            notes.append(say("results.bad_rows", n=f"{one['num_questions']:,}", all=f"{rows:,}"))
        if one["limit"]:
            notes.append(say("results.limit", n=one["limit"]))
        if is_written(one):
            notes.append(say("results.own_examples"))
        elif shots := one["num_fewshot"]:
            notes.append(say("results.examples", n=shots))
        else:
            notes.append(say("results.no_examples"))
        cut = {m: r["num_truncated"] for m, r in scores.items() if r["num_truncated"]}
        if cut:
            listed = ", ".join(f"{model} {number}" for model, number in cut.items())
            notes.append(say("results.truncated", listed=listed))
        lines.append(f"**{title}**: {'; '.join(notes)}.")
        if one.get("origin") == SAMPLE_DATA:
            generated.append(title)
    with_template = [
        m for m, of_model in results.items() if any(r["chat"] for r in of_model.values())
    ]
    models = ", ".join(with_template) or say("results.no_model")
    lines.append(say("results.template", models=models))
    if generated:
        lines.append(say("results.generated", titles=", ".join(generated)))
    return lines
