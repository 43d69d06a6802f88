"""A question is found in the same texts whatever other benchmarks are looked for."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from corpus.decontaminate import BenchmarkQuestion, Index, build_index
from tests.corpus.decontaminate.planted import CONFIG, POEM, SHORT, VARIANTS, asked

TEMPLATE = "根据《行政许可法》的规定，下列关于行政许可第{n}条实施程序的说法中正确的是哪一项？"


def look_alikes(benchmark: str, numbers: range) -> list[BenchmarkQuestion]:
    """Questions that differ in a number alone, of which one benchmark may have many."""
    return [
        BenchmarkQuestion(
            benchmark=benchmark,
            id=f"law/test/{n}",
            stem=TEMPLATE.format(n=n),
            options=tuple(f"第{n}条之{k}款适用于全部申请人" for k in "一二三四"),
        )
        for n in numbers
    ]


QUESTIONS = [
    POEM,
    # The same question in another benchmark, with a word changed.
    replace(POEM, benchmark="ceval", id="poetry/val/0", stem=POEM.stem.replace("哪一篇", "哪篇")),
    SHORT,
    replace(SHORT, benchmark="mmlu", id="physics/test/0"),
    *look_alikes("ceval", range(30)),
    *look_alikes("cmmlu", range(3)),
]


def pairs(index: Index, text: str) -> set[tuple[str, str, float]]:
    return {(m.benchmark, m.question_id, m.overlap) for m in index.find(text)}


def test_one_index_finds_what_an_index_for_each_benchmark_finds() -> None:
    whole = Index.build(QUESTIONS, CONFIG)
    parts = [
        Index.build([q for q in QUESTIONS if q.benchmark == name], CONFIG)
        for name in ("ceval", "cmmlu", "mmlu")
    ]
    rng = random.Random(1)
    seen = set()
    for question in QUESTIONS:
        for variant in VARIANTS.values():
            text = f"前言。\n{variant(question, rng)}\n后记，与题目无关。"
            separate = set[tuple[str, str, float]]().union(*(pairs(one, text) for one in parts))
            assert pairs(whole, text) == separate
            seen |= {name for name, *_ in separate}
    assert seen == {"ceval", "cmmlu", "mmlu"}
    checkable = [one.num_checkable for one in parts]
    assert whole.num_checkable == sum(checkable)
    assert {q.id for q in whole.unchecked()} == {q.id for one in parts for q in one.unchecked()}


def test_a_question_of_two_benchmarks_is_found_for_both() -> None:
    index = Index.build(QUESTIONS, CONFIG)
    assert {name for name, _, _ in pairs(index, asked(POEM))} == {"ceval", "cmmlu"}


@pytest.mark.slow
def test_real_questions_are_found_alike(shared: Path) -> None:
    evals = shared / "data" / "eval"
    names = ["ceval", "cmmlu", "mmlu"]
    whole = build_index(evals, names, CONFIG)
    parts = {name: build_index(evals, [name], CONFIG) for name in names}
    rng = random.Random(2)
    for question in rng.sample(whole.questions, 150):
        text = rng.choice([*VARIANTS.values()])(question, rng)
        separate = set[tuple[str, str, float]]().union(
            *(pairs(one, text) for one in parts.values())
        )
        assert pairs(whole, text) == separate
