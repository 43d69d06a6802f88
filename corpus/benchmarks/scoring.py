"""Accuracies with intervals, from single answers.

micro   right answers / questions, over all subjects: what lm-eval's groups report
macro   mean of the subjects' accuracies: what C-Eval's and CMMLU's own tables report
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.paths import display
from corpus.benchmarks.questions import LETTERS, Benchmark

CHANCE = 0.25
"""Accuracy of a blind guess: four options, one right."""
Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


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


def join_answers(
    benchmark: Benchmark, answers: Mapping[str, Sequence[Mapping[str, Any]]], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield each question as it stands in the benchmark file, with its answer, exactly once.

    answers: subject -> lines of model.entry.evaluate; limit: at most so many questions a subject.
    """
    for subject, splits in benchmark.subjects.items():
        questions = splits[benchmark.recipe.scored_split][:limit]
        pairs = enumerate(zip(questions, answers[subject], strict=True))
        for index, (question, answer) in pairs:
            likelihoods = dict(zip(LETTERS, answer["log_likelihoods"], strict=True))
            choice = max(LETTERS, key=likelihoods.__getitem__)  # the first of equals, as lm-eval
            right = answer["right"] == (choice == question.answer)
            assert right and answer["index"] == index, (benchmark.name, subject, index)
            yield {
                "subject": subject,
                "index": index,
                "question": question.text,
                "options": list(question.options),
                "gold": question.answer,
                "choice": choice,
                "log_likelihoods": likelihoods,
                "truncated": answer["truncated"],
                # The first prompt of a subject shows what the model was given; others are alike.
                **({"prompt": answer["prompt"]} if index == 0 else {}),
            }


def score(samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute the accuracies of one benchmark. Every sample counts, whatever the model answered."""
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    truncated = 0
    for sample in samples:
        subject = sample["subject"]
        total[subject] = total.get(subject, 0) + 1
        right[subject] = right.get(subject, 0) + (sample["choice"] == sample["gold"])
        truncated += bool(sample["truncated"])
    num_right, num_questions = sum(right.values()), sum(total.values())
    subjects = {
        name: {"accuracy": right[name] / total[name], "num_questions": total[name]}
        for name in sorted(total)
    }
    return {
        "accuracy_micro": num_right / num_questions if num_questions else math.nan,
        "accuracy_macro": sum(s["accuracy"] for s in subjects.values()) / max(1, len(subjects)),
        "num_questions": num_questions,
        "num_right": num_right,
        "num_truncated": truncated,
        "interval_95": list(wilson_interval(num_right, num_questions)),
        "chance": CHANCE,
        "subjects": subjects,
    }
