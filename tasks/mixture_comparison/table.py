"""The table of a comparison of mixtures: JSON values once, and every form that people read of them.

rows      a row for each mixture and benchmark; the figure is drawn from the same rows
subjects  the same by subject, for a spreadsheet
"""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.core.markdown import NOT_RUN, markdown_table
from tasks.core.paper.tables import Table3
from tasks.mixture_comparison.answers import Answers
from tasks.mixture_comparison.paired import Estimate, SeedSpread, accuracy, difference, holm
from tasks.report.differences import SIGNIFICANT_P
from tasks.report.results import loss_text, p_text

BASE = "base"
"""Row of the model that every mixture starts from; it is in no test."""
COLUMNS = (
    "accuracy",
    "interval_95",
    "by_seed",
    "sd",
    "difference",
    "difference_interval_95",
    "p",
    "p_holm",
    "only_this",
    "only_first",
)
"""Figures of a row; None where there are no answers, or where they have no meaning."""


def comparison(
    answers: Sequence[Answers],
    mixtures: Sequence[str],
    titles: Mapping[str, str],
    seeds: Mapping[str, Sequence[int]],
    statuses: Mapping[str, str],
    paper: Table3,
) -> dict[str, Any]:
    """Make the table as JSON values.

    Args:
        answers: of each benchmark.
        mixtures: in the order of the table; differences are to the first.
        titles: mixture -> title of its recipe.
        seeds: mixture -> seeds whose models were evaluated.
        statuses: mixture -> `done`, or the reason why it is not.
        paper: Table 3.
    """
    rows = [
        {
            "mixture": mixture,
            "title": titles.get(mixture, mixture),
            "benchmark": one.name,
            "benchmark_title": one.title,
            "status": statuses[mixture],
            "paper": _paper(paper, mixture, one.name),
            "seeds": list(seeds.get(mixture, ())),
            **_figures(one, mixture, mixtures[0]),
        }
        for mixture in (*mixtures, *([BASE] if BASE in statuses else []))
        for one in answers
    ]
    tested = {i: row["p"] for i, row in enumerate(rows) if row["p"] is not None}
    for i, adjusted in holm(tested).items():
        rows[i]["p_holm"] = adjusted
    return {
        "first": mixtures[0],
        "mixtures": list(mixtures),
        "benchmarks": {one.name: one.title for one in answers},
        "losses": {},
        "english": {},
        "comparisons": len(tested),
        "repeated": any(len(found) > 1 for found in seeds.values()),
        "rows": rows,
        "statuses": dict(statuses),
        "paper_not_run": [
            {"mixture": e.mixture, "title": e.title, "accuracy": e.accuracy}
            for e in paper.experiments
            if e.mixture not in mixtures
        ],
    }


def _paper(paper: Table3, mixture: str, benchmark: str) -> float | None:
    for experiment in paper.experiments:
        if experiment.mixture == mixture:
            return experiment.accuracy.get(benchmark)
    return None


def _figures(answers: Answers, mixture: str, first: str) -> dict[str, Any]:
    """Accuracy of one mixture, and its difference to the first; None where there are no answers."""
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    found["num_questions"] = len(answers.questions)
    right = answers.right.get(mixture)
    if right is None:
        return found
    # The base was trained once: it says nothing about the spread of seeds, and has none.
    spread = SeedSpread.of([r for name, r in answers.right.items() if name != BASE])
    own = accuracy(right, SeedSpread() if mixture == BASE else spread)
    by_seed = [float(value) for value in right.mean(1)]
    found |= {"accuracy": own.value, "interval_95": _interval(own), "by_seed": by_seed}
    if len(by_seed) > 1:
        found["sd"] = statistics.stdev(by_seed)
    if mixture not in (first, BASE) and first in answers.right:
        to_first = difference(right, answers.right[first], spread)
        found |= {
            "difference": to_first.value,
            "difference_interval_95": _interval(to_first),
            "p": to_first.p,
            "only_this": to_first.only_this,
            "only_first": to_first.only_first,
        }
    return found


def _interval(estimate: Estimate) -> list[float]:
    return [estimate.low, estimate.high]


def subject_rows(
    answers: Sequence[Answers], mixtures: Sequence[str], statuses: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each benchmark, subject and mixture; p is of the subject alone."""
    for one in answers:
        for subject in one.subjects:
            part = one.of_subject(subject)
            for mixture in (*mixtures, *([BASE] if BASE in statuses else [])):
                if mixture in part.right:
                    figures = _figures(part, mixture, mixtures[0])
                    low, high = figures["interval_95"]
                    yield {
                        "benchmark": one.name,
                        "subject": subject,
                        "mixture": mixture,
                        "questions": figures["num_questions"],
                        "seeds": len(part.right[mixture]),
                        "accuracy %": percent(figures["accuracy"]),
                        "95 % from": percent(low),
                        "95 % to": percent(high),
                        "sd over seeds": _points(figures["sd"]),
                        "difference to the first": signed(figures["difference"]),
                        "p, not adjusted": _p(figures["p"]),
                    }


def format_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as CSV with the columns of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def percent(share: float) -> str:
    """Format a share in per cent as the table and the figure show it: 0.4321 -> 43.21."""
    return f"{100 * share:z.2f}"


def signed(share: float | None) -> str:
    """Format a difference in points, with its sign; empty for none."""
    return "" if share is None else f"{100 * share:+z.2f}"


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _p(value: float | None) -> str:
    return "" if value is None else p_text(value)


def _range(interval: Sequence[float] | None, form: Any) -> str:
    return "" if interval is None else f"{form(interval[0])} to {form(interval[1])}"


def shown_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows as people read them: one for each mixture and benchmark."""
    repeated = table["repeated"]
    rows = []
    for row in table["rows"]:
        done = row["accuracy"] is not None
        found = {
            "mixture": row["mixture"],
            "benchmark": row["benchmark_title"],
            "paper %": "" if row["paper"] is None else f"{row['paper']:.2f}",
            "ours %": percent(row["accuracy"]) if done else NOT_RUN,
            "95 % interval": _range(row["interval_95"], percent),
        }
        if repeated:
            num = str(len(row["by_seed"] or ()))
            found |= {"seeds": num, "sd over seeds": _points(row["sd"])}
        found |= {
            f"difference to {table['first']}": signed(row["difference"]),
            "its 95 % interval": _range(row["difference_interval_95"], signed),
        }
        if not repeated:
            pair = (row["only_this"], row["only_first"])
            found["only this : only first"] = "" if pair[0] is None else f"{pair[0]} : {pair[1]}"
        found |= {"p": _p(row["p"]), "p (Holm)": _p(row["p_holm"]), "status": row["status"]}
        rows.append(found)
    return rows


def _compact(table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Table 3 as the paper prints it: a row for each mixture, benchmarks as columns."""
    rows = []
    for mixture in table["statuses"]:
        own = {row["benchmark"]: row for row in table["rows"] if row["mixture"] == mixture}
        cells = {}
        for name, title in table["benchmarks"].items():
            row = own[name]
            cells[f"{title}, paper"] = "" if row["paper"] is None else f"{row['paper']:.2f}"
            cells[title] = NOT_RUN if row["accuracy"] is None else percent(row["accuracy"])
            if row["sd"] is not None:
                cells[title] += f" ± {_points(row['sd'])}"
        title = next((row["title"] for row in own.values()), mixture)
        loss, english = table["losses"].get(mixture), table["english"].get(mixture)
        cells["English, measured"] = "" if english is None else f"{100 * english:.1f} %"
        cells["loss at the end"] = "" if loss is None else loss_text(loss)
        status = table["statuses"][mixture]
        rows.append({"mixture": mixture, "title": title, **cells, "status": status})
    for missing in table["paper_not_run"]:
        cells = {}
        for name, title in table["benchmarks"].items():
            value = missing["accuracy"].get(name)
            cells |= {f"{title}, paper": "" if value is None else f"{value:.2f}", title: ""}
        rows.append(
            {
                "mixture": missing["mixture"],
                "title": missing["title"],
                **cells,
                "English, measured": "",
                "loss at the end": "",
                "status": "not in this run",
            }
        )
    return rows


def findings(table: Mapping[str, Any]) -> list[str]:
    """Differences that hold after the correction, in words; one line if there is none."""
    lines = [
        f"{row['mixture']}: {signed(row['difference'])} points on {row['benchmark_title']} "
        f"({_range(row['difference_interval_95'], signed)}; adjusted p {_p(row['p_holm'])})"
        for row in table["rows"]
        if row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT_P
    ]
    if lines or not table["comparisons"]:
        return lines
    return [
        f"No mixture differs from {table['first']} by more than chance explains "
        f"(of {table['comparisons']} comparisons none has an adjusted p below {SIGNIFICANT_P})."
    ]


def format_page(table: Mapping[str, Any], scale: str, pictures: Sequence[str]) -> str:
    """Format the comparison as a page of its own."""
    shown = shown_rows(table)
    text = ("mixture", "benchmark", "status", "title")
    compact = _compact(table)
    lines = [
        "# Table 3: SFT mixtures",
        scale,
        markdown_table(compact, right=[c for c in compact[0] if c not in text]),
        "\n".join(f"- {line}" for line in findings(table)),
        "## Every comparison",
        markdown_table(shown, right=[c for c in shown[0] if c not in text]),
        _explained(table),
        *(f"![{name}]({name}.png)" for name in pictures),
        "By subject: `by_subject.csv`.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _explained(table: Mapping[str, Any]) -> str:
    """Say how intervals and p were computed."""
    if table["repeated"]:
        how = (
            "Accuracy is the mean over seeds; *sd* is the standard deviation of the seeds' "
            "accuracies. Intervals and p are of Student's t, for other seeds and other questions: "
            "questions are paired, since all models answered the same ones; seeds are not, and "
            "their spread is pooled over all mixtures."
        )
    else:
        how = (
            "One training each: intervals of accuracies are Wilson's, of differences Agresti's and "
            "Min's; p is McNemar's exact test over the questions that only one of the two answered "
            "correctly. They say nothing about another seed of the same training: give several."
        )
    return (
        f"{how} *p (Holm)* is adjusted for the {table['comparisons']} comparisons of this table: "
        "read this one. Values by subject are not adjusted, and few questions each: among twenty "
        "subjects one looks different by chance."
    )
