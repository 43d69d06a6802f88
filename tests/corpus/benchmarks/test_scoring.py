"""Scores: Wilson's intervals as scipy's, micro and macro accuracies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import lm_eval_tasks, num_known_subjects
from corpus.benchmarks.questions import BenchmarkRecipe
from corpus.benchmarks.scoring import OTHER_CATEGORY, categories_of, score, wilson_interval


def test_wilson_interval_is_scipys() -> None:
    for right, total in ((0, 1), (1, 1), (3, 10), (30, 100), (602, 602), (150, 602)):
        reference = binomtest(right, total).proportion_ci(0.95, method="wilson")
        assert wilson_interval(right, total) == pytest.approx(
            (reference.low, reference.high), abs=1e-12
        )


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_bounds(case: tuple[int, int]) -> None:
    right, total = case
    low, high = wilson_interval(right, total)
    assert 0 <= low <= high <= 1
    assert total == 0 or low <= right / total <= high


def test_micro_counts_questions_and_macro_counts_subjects() -> None:
    sample = {"truncated": False, "gold": "A"}
    samples = [{**sample, "subject": "small", "choice": "A"}]
    samples += [{**sample, "subject": "large", "choice": c} for c in "ABBB"]
    result = score(samples)
    assert result["accuracy_micro"] == 2 / 5
    assert result["accuracy_macro"] == (1 + 1 / 4) / 2
    assert result["subjects"]["large"] == {
        "accuracy": 0.25,
        "num_questions": 4,
        "interval_95": list(wilson_interval(1, 4)),
    }
    assert result["categories"] == {}


def test_a_category_counts_the_questions_of_its_subjects() -> None:
    sample = {"truncated": False, "gold": "A"}
    choices = {"law": "AB", "logic": "AAA", "mine": "B", "art": "B"}
    samples = [{**sample, "subject": s, "choice": c} for s, cs in choices.items() for c in cs]
    found = score(samples, {"Humanities": ["law", "logic", "absent"], "Arts": ["art", "law"]})
    assert {
        name: (c["accuracy"], c["num_subjects"]) for name, c in found["categories"].items()
    } == {"Humanities": (4 / 5, 2), "Arts": (1 / 3, 2), OTHER_CATEGORY: (0.0, 1)}
    assert found["categories"]["Humanities"]["interval_95"] == list(wilson_interval(4, 5))


@pytest.mark.parametrize("name", ["ceval", "cmmlu", "mmlu"])
def test_each_known_subject_has_one_category(name: str) -> None:
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    pattern = lm_eval_tasks() / recipe.task.format(subject="*")
    begin = pattern.name.partition("*")[0]
    files = (path.stem for path in pattern.parent.glob(pattern.name))
    known = {stem.removeprefix(begin) for stem in files if not stem.startswith("_")}
    groups = categories_of(name)
    of_all = [
        s for group, subjects in groups.items() if group != "China specific" for s in subjects
    ]
    assert sorted(of_all) == sorted(known)
    assert len(known) == num_known_subjects(recipe)
