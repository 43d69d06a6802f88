"""Accuracies of contaminated questions and of the others."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tasks.evaluate.subsets import STATUSES, Question, Status, difference, shown_row, subset_scores

ROWS = st.lists(st.tuples(st.sampled_from(STATUSES), st.booleans()), min_size=1, max_size=120)


def answers(rows: list[tuple[Status, bool]]) -> tuple[list[dict[str, Any]], dict[Question, Status]]:
    samples = [
        {"subject": f"s{n % 3}", "index": n, "gold": "A", "choice": "A" if right else "C"}
        for n, (_, right) in enumerate(rows)
    ]
    return samples, {(f"s{n % 3}", n): status for n, (status, _) in enumerate(rows)}


@given(ROWS, st.integers(1, 40), st.randoms(use_true_random=False))
def test_every_question_is_in_one_subset(
    rows: list[tuple[Status, bool]], least: int, rng: random.Random
) -> None:
    samples, statuses = answers(rows)
    rng.shuffle(samples)
    scores = subset_scores(samples, statuses, least)
    assert scores["full"]["num_right"] == sum(right for _, right in rows)
    assert scores["full"]["num_questions"] == len(rows)
    assert sum(scores[name]["num_questions"] for name in STATUSES) == len(rows)
    for name in STATUSES:
        of_it = [right for status, right in rows if status == name]
        assert scores[name]["num_questions"] == len(of_it)
        if len(of_it) < least:
            assert [scores[name][k] for k in ("num_right", "accuracy", "interval_95")] == [None] * 3
        else:
            assert scores[name]["accuracy"] == sum(of_it) / len(of_it)
            expected = binomtest(sum(of_it), len(of_it)).proportion_ci(method="wilson")
            assert scores[name]["interval_95"] == pytest.approx([*expected], abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((56, 70), (48, 80), (0.2, 0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.6, 0.1705, 0.8090)),
        ((10, 10), (0, 10), (1.0, 0.6075, 1.0)),
    ],
)
def test_the_difference_has_newcombes_interval(
    first: tuple[int, int], second: tuple[int, int], expected: tuple[float, float, float]
) -> None:
    """Examples of Newcombe 1998 (Statistics in Medicine 17, 873), Table II, method 10."""
    rows: list[tuple[Status, bool]] = [("contaminated", n < first[0]) for n in range(first[1])]
    rows += [("clean", n < second[0]) for n in range(second[1])]
    assert difference(subset_scores(*answers(rows), 1)) == pytest.approx(expected, abs=6e-5)


def test_a_small_subset_shows_its_number_and_no_figure() -> None:
    rows: list[tuple[Status, bool]] = [("clean", True)] * 20 + [("contaminated", True)] * 19
    scores = subset_scores(*answers(rows), 20)
    assert difference(scores) is None
    row = {"form": "likelihood", "num_fewshot": 5, "title": "C-Eval", "sources": {"corpus a": 19}}
    shown = shown_row({**row, **scores, "difference": None, "unknown": []})
    assert shown["contaminated %"] == "– of 19"
    assert shown["clean %"] == "100.0 (83.9 to 100.0) of 20"
    assert shown["not checkable"] == "0"
    assert shown["sources"] == "corpus a: 19"


def test_unknown_is_not_zero() -> None:
    scores = subset_scores(*answers([("clean", True)] * 30), 20)
    row = {"form": "likelihood", "num_fewshot": 0, "title": "C-Eval", "sources": {}}
    nothing = {"full": scores["full"], **dict.fromkeys(STATUSES), "difference": None}
    shown = shown_row({**row, **nothing, "unknown": ["what the given model m was trained on"]})
    assert shown["clean %"] == shown["contaminated %"] == shown["not checkable"] == "unknown"
    assert shown["all questions %"].endswith("of 30")
    assert shown["unknown"] == "what the given model m was trained on"
