"""Accuracies with intervals, from single answers.

micro   right answers / questions, over all subjects: what lm-eval's groups report
macro   mean of the subjects' accuracies: what C-Eval's and CMMLU's own tables report
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.paths import display
from common.recipes import load_recipe, recipe_path
from corpus.benchmarks.questions import LETTERS, Benchmark, Question

OTHER_CATEGORY = "without category"
"""Category of the subjects that a recipe's categories do not name."""
CHANCE = 0.25
"""Accuracy of a blind guess: four options, one right."""
Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class CategoriesRecipe:
    """A recipe data_recipes/categories/<benchmark>.yaml, which a benchmark may have."""

    categories: Mapping[str, list[str]]
    """Category -> subjects; a subject may be in several."""


def categories_file(benchmark: str) -> Path | None:
    """The recipe of a benchmark's categories; None where it has none."""
    path = recipe_path("categories", benchmark)
    return path if path.is_file() else None


def categories_of(benchmark: str) -> Mapping[str, list[str]]:
    """Category -> subjects of a benchmark; empty where no table groups them."""
    if categories_file(benchmark) is None:
        return {}
    return load_recipe(CategoriesRecipe, "categories", benchmark).categories


def wilson_interval(right: float, total: float, z: float = Z95) -> tuple[float, float]:
    """Compute Wilson's score interval for a proportion (Wilson 1927; 95 % by default).

    Unlike the normal approximation it stays inside [0, 1] and keeps its coverage for few questions.
    Without a question it is the whole of [0, 1]. Numbers of questions need not be whole: those of
    a weighted sample are its effective size.
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} right answers of {total}")
    if total == 0:
        return 0.0, 1.0
    share = right / total
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    centre = share + z * z / (2 * total)
    scale = 1 + z * z / total
    low, high = (centre - spread) / scale, (centre + spread) / scale
    # At the ends the exact bounds are 0 and 1; rounding must not leave the share outside.
    return (0.0 if right == 0 else low), (1.0 if right == total else high)


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a samples file. Raises DataError for a damaged one."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{display(path)}, line {number}: {error}") from error


def is_right(sample: Mapping[str, Any]) -> bool:
    """True for a right answer, chosen or written."""
    return bool(sample["right"]) if "right" in sample else sample["choice"] == sample["gold"]


def join_answers(
    benchmark: Benchmark, answers: Mapping[str, Sequence[Mapping[str, Any]]], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield each question as it stands in the benchmark file, with its answer, exactly once.

    answers: subject -> lines of model.entry.evaluate; limit: at most so many questions a subject.
    """
    for question, answer, asked in questions_with_answers(benchmark, answers, limit):
        likelihoods = dict(zip(LETTERS, answer["log_likelihoods"], strict=True))
        choice = max(LETTERS, key=likelihoods.__getitem__)  # the first of equals, as lm-eval
        assert answer["right"] == (choice == question.answer), (benchmark.name, asked)
        yield {
            **asked,
            "choice": choice,
            "log_likelihoods": likelihoods,
            "truncated": answer["truncated"],
            "tied": answer["tied"],
            **first_prompt(answer),
        }


def questions_with_answers(
    benchmark: Benchmark, answers: Mapping[str, Sequence[Mapping[str, Any]]], limit: int | None
) -> Iterator[tuple[Question, Mapping[str, Any], dict[str, Any]]]:
    """Yield each scored question once, its answer, and the fields of it that samples show."""
    for subject, splits in benchmark.subjects.items():
        questions = splits[benchmark.recipe.scored_split][:limit]
        pairs = enumerate(zip(questions, answers[subject], strict=True))
        for index, (question, answer) in pairs:
            assert answer["index"] == index, (benchmark.name, subject, index)
            asked = {
                "subject": subject,
                "index": index,
                "question": question.text,
                "options": list(question.options),
                "gold": question.answer,
            }
            yield question, answer, asked


def first_prompt(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt of a subject's first question, which shows what the model was given."""
    return {"prompt": answer["prompt"]} if answer["index"] == 0 else {}


def score(
    samples: Iterable[Mapping[str, Any]], categories: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Compute the accuracies of one benchmark. Every sample counts, whatever the model answered.

    categories: category -> subjects; those that none names are in `OTHER_CATEGORY`.
    """
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    truncated = tied = 0
    for sample in samples:
        subject = sample["subject"]
        total[subject] = total.get(subject, 0) + 1
        right[subject] = right.get(subject, 0) + (sample["choice"] == sample["gold"])
        truncated += bool(sample["truncated"])
        tied += bool(sample.get("tied"))
    num_right, num_questions = sum(right.values()), sum(total.values())
    subjects = {name: _accuracy(right[name], total[name]) for name in sorted(total)}
    return {
        "accuracy_micro": num_right / num_questions if num_questions else math.nan,
        "accuracy_macro": sum(s["accuracy"] for s in subjects.values()) / max(1, len(subjects)),
        "num_questions": num_questions,
        "num_right": num_right,
        "num_truncated": truncated,
        "num_tied": tied,
        "interval_95": list(wilson_interval(num_right, num_questions)),
        "chance": CHANCE,
        "subjects": subjects,
        "categories": _by_category(right, total, categories or {}),
    }


def _by_category(
    right: Mapping[str, int], total: Mapping[str, int], categories: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Accuracy of each category's subjects, all questions counting alike."""
    named = {subject for subjects in categories.values() for subject in subjects}
    members = {name: [s for s in subjects if s in total] for name, subjects in categories.items()}
    if others := [subject for subject in sorted(total) if subject not in named]:
        members[OTHER_CATEGORY] = others
    return {
        name: _accuracy(sum(right[s] for s in subjects), sum(total[s] for s in subjects))
        | {"num_subjects": len(subjects)}
        for name, subjects in members.items()
        if subjects and categories
    }


def _accuracy(right: int, total: int) -> dict[str, Any]:
    return {
        "accuracy": right / total,
        "num_questions": total,
        "interval_95": list(wilson_interval(right, total)),
    }
