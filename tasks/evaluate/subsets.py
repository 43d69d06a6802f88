"""Accuracies of the questions that training texts contain, and of those that they do not.

samples ──status of each question──▶ full = clean + contaminated + not checkable
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from corpus.benchmarks.scoring import is_right, wilson_interval

Status = Literal["clean", "contaminated", "not_checkable"]
"""contaminated: a text that the model was trained on contains the question; not_checkable: too
short, or too much like others, to be told from ordinary speech."""

STATUSES: tuple[Status, ...] = ("clean", "contaminated", "not_checkable")

ADJUSTED_FILE = "adjusted.json"
"""`rows`: one for each benchmark, form of the answers and number of worked examples."""

Question = tuple[str, int]
"""Subject, and place among the sound rows of the scored split."""


def subset_scores(
    samples: Iterable[Mapping[str, Any]], statuses: Mapping[Question, Status], min_questions: int
) -> dict[str, dict[str, Any]]:
    """Score all questions, and those of each status.

    Args:
        samples: answers, a line for each question.
        statuses: of every question.
        min_questions: a subset of fewer has a number of questions and no accuracy.

    Returns full, clean, contaminated and not_checkable -> num_questions, num_right, accuracy and
    interval_95 (Wilson); the last three are None for a subset that is too small.
    """
    parts: dict[str, list[bool]] = {"full": [], **{status: [] for status in STATUSES}}
    for sample in samples:
        right = is_right(sample)
        parts["full"].append(right)
        parts[statuses[sample["subject"], sample["index"]]].append(right)
    return {
        name: _scores(answers, 1 if name == "full" else min_questions)
        for name, answers in parts.items()
    }


def _scores(answers: list[bool], min_questions: int) -> dict[str, Any]:
    total, right = len(answers), sum(answers)
    if total < max(1, min_questions):
        return {"num_questions": total, "num_right": None, "accuracy": None, "interval_95": None}
    return {
        "num_questions": total,
        "num_right": right,
        "accuracy": right / total,
        "interval_95": list(wilson_interval(right, total)),
    }


def difference(scores: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """Accuracy of contaminated minus that of clean questions, and its 95 % interval.

    From the Wilson intervals of both (Newcombe 1998, method 10). None where one has no accuracy.
    """
    one, other = scores["contaminated"], scores["clean"]
    if one["accuracy"] is None or other["accuracy"] is None:
        return None
    p, q = one["accuracy"], other["accuracy"]
    (p_low, p_high), (q_low, q_high) = one["interval_95"], other["interval_95"]
    below = math.hypot(p - p_low, q_high - q)
    above = math.hypot(p_high - p, q - q_low)
    return p - q, p - q - below, p - q + above


def shown_row(row: Mapping[str, Any]) -> dict[str, str]:
    """A line of adjusted.json for people."""
    shots = row["num_fewshot"]
    return {
        "benchmark": row["title"],
        "form": row["form"].replace("_", " "),
        "worked examples": "the task's" if shots is None else str(shots),
        "all questions %": _cell(row["full"]),
        "clean %": _cell(row["clean"]),
        "contaminated %": _cell(row["contaminated"]),
        "not checkable": str(row["not_checkable"]["num_questions"]) if row["clean"] else "unknown",
        "contaminated minus clean": _difference(row["difference"]),
        "sources": ", ".join(f"{name}: {number}" for name, number in row["sources"].items()),
        "unknown": "; ".join(row["unknown"]),
    }


def _cell(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return "unknown"
    if part["accuracy"] is None:
        return f"– of {part['num_questions']}"
    low, high = part["interval_95"]
    return (
        f"{100 * part['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f}) "
        f"of {part['num_questions']}"
    )


def _difference(found: Sequence[float] | None) -> str:
    if found is None:
        return ""
    value, low, high = (100 * part for part in found)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
