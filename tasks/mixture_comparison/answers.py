"""Answers of several models to the same questions, question by question."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from common.errors import DataError
from common.paths import display
from common.reading.files import read_json_object
from corpus.benchmarks.scoring import is_right, read_samples
from tasks.core.manifest import StageResult
from tasks.mixture_comparison.paired import Right

Question: TypeAlias = tuple[str, int]
"""Subject, and number of the question in it."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of every mixture to one benchmark."""

    name: str
    """Name of the recipe in data_recipes/evals."""
    title: str
    questions: list[Question]
    """In the order of the columns of `right`."""
    right: dict[str, Right]
    """Mixture -> [seeds, questions], 1 where the answer is right; without those that failed."""

    def of_subject(self, subject: str) -> "Answers":
        """The questions of one subject alone."""
        places = [i for i, (name, _) in enumerate(self.questions) if name == subject]
        return Answers(
            name=self.name,
            title=self.title,
            questions=[self.questions[i] for i in places],
            right={mixture: right[:, places] for mixture, right in self.right.items()},
        )

    @property
    def subjects(self) -> list[str]:
        """Subjects by name."""
        return sorted({subject for subject, _ in self.questions})


def read_answers(evaluations: Mapping[str, Mapping[int, StageResult]]) -> list[Answers]:
    """Read the answers to each benchmark that every model was evaluated on.

    evaluations: mixture -> seed -> finished evaluation.

    Raises DataError where models were asked different questions, or an evaluation contradicts
    itself.
    """
    results = {
        (mixture, seed): read_json_object(evaluation.folder / "results.json")
        for mixture, by_seed in evaluations.items()
        for seed, evaluation in by_seed.items()
    }
    found = []
    for name, scores in next(iter(results.values()), {}).items():
        known: list[Question] | None = None
        right: dict[str, list[Right]] = {}
        for (mixture, seed), of_model in results.items():
            evaluation = evaluations[mixture][seed]
            answered = _right(evaluation, name, of_model)
            if known is None:
                known = list(answered)
            elif list(answered) != known:
                raise DataError(
                    f"{display(evaluation.folder)} (mixture {mixture}, seed {seed}) was asked "
                    f"other questions of {name} than the first model: answers can be compared in "
                    "pairs only where all models got the same ones"
                )
            right.setdefault(mixture, []).append(np.array(list(answered.values()), dtype=float))
        assert known is not None
        found.append(
            Answers(
                name=name,
                title=scores["title"],
                questions=known,
                right={mixture: np.stack(rows) for mixture, rows in right.items()},
            )
        )
    return found


def _right(
    evaluation: StageResult, benchmark: str, results: Mapping[str, Any]
) -> dict[Question, bool]:
    """Question -> True where the model answered it correctly; sorted by question."""
    path = evaluation.folder / "samples" / f"{benchmark}.jsonl"
    if benchmark not in results or not path.is_file():
        raise DataError(f"{display(evaluation.folder)} has no answers to {benchmark}")
    answers = {
        (str(sample["subject"]), int(sample["index"])): is_right(sample)
        for sample in read_samples(path)
    }
    if sum(answers.values()) != results[benchmark]["num_right"]:
        raise DataError(
            f"{display(path)} does not have the right answers that results.json counts: the "
            "evaluation is damaged; remove its folder to make it anew"
        )
    return dict(sorted(answers.items()))
