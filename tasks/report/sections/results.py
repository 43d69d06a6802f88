"""The report's section on results: chance, differences between models, conditions, subjects."""

from collections.abc import Callable, Mapping
from typing import Any

from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.results import (
    SAMPLE_DATA,
    Results,
    benchmark_titles,
    compare_with_chance,
    is_written,
    p_text,
    percent,
    points,
)
from tasks.report.trace.numbers import Known, Place, computed, place_in, pointer


def results_section(data: ReportData, picture: Callable[[str], str], say: Writer) -> str:
    """Format chance, differences, means over subjects, conditions, and each subject.

    The accuracies themselves stand on the report's first page. `picture` gives the Markdown of a
    picture by its name.
    """
    results, stages = data.results, data.stages
    titles = benchmark_titles(results)
    if not titles:
        return say("results.absent")
    columns = [f"{title} %" for title in titles.values()]
    parts = [
        picture("accuracy"),
        _chance_summary(results, stages, say),
        _differences(data, titles, say),
        "\n".join(f"- {line}" for line in _conditions(results, titles, stages, say)),
        say.details(
            say("results.macro"),
            markdown_table(_macro_rows(results, titles, stages, say), right=columns),
        ),
    ]
    for name, title in titles.items():
        parts.append(_by_subject(results, name, title, stages, say))
    return "\n\n".join(part for part in parts if part)


def _by_subject(
    results: Results, name: str, title: str, stages: Mapping[str, StageResult], say: Writer
) -> str:
    """A benchmark's table of subjects behind one line: best, worst and mean of its best model."""
    scored = {model: of_model[name] for model, of_model in results.items() if name in of_model}
    best = max(scored, key=lambda model: scored[model]["accuracy_micro"])
    known = {
        subject: _subject_known(scored[best], best, name, subject, stages)
        for subject in scored[best]["subjects"]
    }
    if not known:
        return ""
    ordered = sorted(known, key=lambda subject: (-known[subject].value, subject))
    mean = score_known(scored[best], best, name, stages, "accuracy_macro", "mean over subjects")
    line = say(
        "results.by_subject",
        title=title,
        model=best,
        best=ordered[0],
        most=say.known(percent, known[ordered[0]]),
        worst=ordered[-1],
        least=say.known(percent, known[ordered[-1]]),
        mean=say.known(percent, mean),
    )
    return say.details(line, subject_table(results, name, stages, say))


def score_place(stages: Mapping[str, StageResult], model: str, *names: str) -> Place | None:
    """Place of a score in the file that `evaluate` wrote; None where the stage is not known."""
    stage = stages.get(f"evaluate {model}")
    return place_in(stage, "results.json", pointer=pointer(*names), part=names[0])


def score_known(
    result: Mapping[str, Any],
    model: str,
    benchmark: str,
    stages: Mapping[str, StageResult],
    field: str,
    words: str,
) -> Known:
    """A number of a model's scores on a benchmark, with its place."""
    return Known(
        value=result[field],
        about=f"{result['title']}, {words} of {model}",
        place=score_place(stages, model, benchmark, field),
    )


def accuracy_known(
    result: Mapping[str, Any], model: str, benchmark: str, stages: Mapping[str, StageResult]
) -> Known:
    """The accuracy over all questions, as a share."""
    return Known(
        value=result["accuracy_micro"],
        about=f"{result['title']}, accuracy of {model} in per cent",
        place=score_place(stages, model, benchmark, "accuracy_micro"),
    )


def accuracy(
    result: Mapping[str, Any] | None,
    model: str,
    benchmark: str,
    stages: Mapping[str, StageResult],
    say: Writer,
    form: Callable[[float], str] = percent,
) -> str:
    """Accuracy with its interval and its id; `not run` where there is none."""
    if result is None:
        return say("not_run")
    low, high = (form(bound) for bound in result["interval_95"])
    shown = say("results.to", share=form(result["accuracy_micro"]), low=low, high=high)
    return say.known(shown, accuracy_known(result, model, benchmark, stages))


def difference_text(data: ReportData, model: str, benchmark: str, say: Writer) -> str:
    """Difference of a model to the one that it is compared with: points, interval, adjusted p."""
    found = data.differences[model, benchmark]
    one, other = (
        accuracy_known(data.results[name][benchmark], name, benchmark, data.stages)
        for name in (model, found.other)
    )
    title = data.results[model][benchmark]["title"]
    about = f"{title}, accuracy of {model} less that of {found.other}"
    shown = say(
        "results.difference",
        value=points(found.value),
        low=points(found.low),
        high=points(found.high),
        p=p_text(found.p),
    )
    return say.known(shown, computed(about, "difference", one, other))


def _differences(data: ReportData, titles: Mapping[str, str], say: Writer) -> str:
    """Table of differences between models on the same questions."""
    if not data.differences:
        return ""
    others = {model: one.other for (model, _), one in data.differences.items()}
    rows = [
        {
            say("column.model"): model,
            say("column.compared with"): other,
            **{
                title: difference_text(data, model, name, say)
                if (model, name) in data.differences
                else say("not_run")
                for name, title in titles.items()
            },
        }
        for model, other in others.items()
    ]
    table = markdown_table(rows, right=list(titles.values()))
    return f"### {say('results.differences')}\n\n{say('results.differences_legend')}\n\n{table}"


def subject_table(
    results: Results, benchmark: str, stages: Mapping[str, StageResult], say: Writer
) -> str:
    """Format the accuracy of every model on each subject of a benchmark, in per cent.

    Few questions a subject: no intervals, and differences that say little.
    """
    scored = {m: of_model[benchmark] for m, of_model in results.items() if benchmark in of_model}
    where = {
        subject: (model, found)
        for model, result in scored.items()
        for subject, found in result["subjects"].items()
    }
    rows = []
    for subject, (any_model, of_any) in sorted(where.items()):
        place = score_place(stages, any_model, benchmark, "subjects", subject, "num_questions")
        number = of_any["num_questions"]
        about = f"{scored[any_model]['title']}, {subject}: questions"
        row = {
            say("column.subject"): subject,
            say("column.questions"): say.number(f"{number:,}", about, number, place),
        }
        for model, result in scored.items():
            row[f"{model} %"] = (
                say.known(percent, _subject_known(result, model, benchmark, subject, stages))
                if subject in result["subjects"]
                else say("not_run")
            )
        rows.append(row)
    right = [say("column.questions"), *(f"{model} %" for model in scored)]
    return markdown_table(rows, right=right) if rows else f"*{say('not_run')}.*"


def _subject_known(
    result: Mapping[str, Any],
    model: str,
    benchmark: str,
    subject: str,
    stages: Mapping[str, StageResult],
) -> Known:
    return Known(
        value=result["subjects"][subject]["accuracy"],
        about=f"{result['title']}, {subject}: accuracy of {model} in per cent",
        place=score_place(stages, model, benchmark, "subjects", subject, "accuracy"),
    )


def _macro_rows(
    results: Results, titles: Mapping[str, str], stages: Mapping[str, StageResult], say: Writer
) -> list[dict[str, str]]:
    def macro(model: str, name: str) -> str:
        result = results[model].get(name)
        if result is None:
            return say("not_run")
        about = "mean accuracy over subjects in per cent"
        return say.known(percent, score_known(result, model, name, stages, "accuracy_macro", about))

    return [
        {say("column.model"): model, **{f"{t} %": macro(model, n) for n, t in titles.items()}}
        for model in results
    ]


def _chance_summary(results: Results, stages: Mapping[str, StageResult], say: Writer) -> str:
    """Say how many accuracies are above, at and below chance, by their intervals."""
    scores = [
        (compare_with_chance(result), accuracy_known(result, model, name, stages))
        for model, of_model in results.items()
        for name, result in of_model.items()
    ]

    def number(*sides: str) -> str:
        found = [known for side, known in scores if side in sides]
        if not found:
            return "0"
        about = f"accuracies {' or '.join(sides)} chance"
        return say.known(str, computed(about, "number", *found))

    at_all = number("above", "at", "below")
    text = say("results.chance", all=at_all, above=number("above"), at=number("at"))
    if any(side == "below" for side, _ in scores):
        text += say("results.below", n=number("below"))
    if not any(side == "above" for side, _ in scores):
        text = say("results.none") + " " + text
    return f"{text} {say('results.luck')}"


def _conditions(
    results: Results, titles: Mapping[str, str], stages: Mapping[str, StageResult], say: Writer
) -> list[str]:
    """Describe the questions and prompts of each benchmark."""
    lines, generated = [], []
    for name, title in titles.items():
        scores = {m: r[name] for m, r in results.items() if name in r}
        model, one = next(iter(scores.items()))

        def number(field: str, words: str, of: str = model, name: str = name) -> Known:
            return score_known(results[of][name], of, name, stages, field, words)

        asked = number("num_questions", "questions")
        shown = say.known("{:,}".format, asked)
        notes = [
            say("results.questions", n=shown, split=one["split"]),
            say(
                "results.subjects",
                n=say.known(str, number("num_subjects", "subjects")),
                all=say.known(str, number("num_subjects_known", "subjects that there are")),
            ),
        ]
        if one.get("num_bad_rows"):
            bad = number("num_bad_rows", "bad rows")
            rows = computed(f"{title}, rows", "sum", asked, bad)
            notes.append(say("results.bad_rows", n=shown, all=say.known("{:,.0f}".format, rows)))
        if one["limit"]:
            limit = say.known(str, number("limit", "most questions a subject"))
            notes.append(say("results.limit", n=limit))
        if is_written(one):
            notes.append(say("results.own_examples"))
        elif one["num_fewshot"]:
            shots = say.known(str, number("num_fewshot", "worked examples"))
            notes.append(say("results.examples", n=shots))
        else:
            notes.append(say("results.no_examples"))
        cut = [m for m, r in scores.items() if r["num_truncated"]]
        if cut:
            listed = ", ".join(
                f"{m} {say.known(str, number('num_truncated', 'prompts cut', m))}" for m in cut
            )
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
