"""Benchmark questions in texts: found however they are typeset, and nothing else is."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.decontaminate import (
    BenchmarkQuestion,
    ContaminationConfig,
    Index,
    build_index,
    describe_index,
)
from corpus.decontaminate.tokens import ngrams
from tests.corpus.decontaminate.planted import (
    CONFIG,
    FOUND,
    INDEX,
    POEM,
    SHORT,
    TEXT,
    TINY,
    VARIANTS,
    asked,
    found,
    write_benchmarks,
)


@given(before=TEXT, after=TEXT, question=st.sampled_from(FOUND), written=st.booleans())
def test_a_question_is_found_whatever_surrounds_it(
    before: str, after: str, question: BenchmarkQuestion, written: bool
) -> None:
    text = asked(question) if written else question.text
    matches = INDEX.find(f"{before}\n{text}\n{after}")
    assert [match.question_id for match in matches if match.overlap == 1] == [question.id]


@given(
    st.text(
        "的一是了在人有我他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
        max_size=400,
    )
)
def test_ordinary_characters_in_any_order_are_no_question(text: str) -> None:
    assert not INDEX.find(text)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "5% edited"])
def test_a_question_is_found_in_every_dress(variant: str) -> None:
    for question in FOUND:
        text = VARIANTS[variant](question, random.Random(1))
        assert found(f"模拟试卷第三页\n\n{text}\n\n请把答案写在答题卡上。") == {question.id}, (
            question
        )


def test_a_long_stem_is_enough_but_not_before_other_options() -> None:
    assert found(f"老师问：{POEM.stem}学生答不上来。") == {POEM.id}
    others = BenchmarkQuestion(
        benchmark="", id="", stem=POEM.stem, options=("甲一", "乙二", "丙", "丁")
    )
    assert found(asked(others)) == set()
    assert found(f"老师问：{SHORT.stem}学生答不上来。") == set()


def test_the_excerpt_is_the_part_that_matched() -> None:
    text = f"{'前言。' * 500}{asked(POEM)}{'后记。' * 500}"
    (match,) = INDEX.find(text)
    assert match.benchmark == "cmmlu"
    assert match.question == POEM.text
    assert match.excerpt in asked(POEM)
    assert len(match.excerpt) > 30


def test_a_question_is_found_in_a_document_of_several_pieces() -> None:
    words = random.Random(3)
    page = "".join(chr(words.randrange(0x4E00, 0x9FA5)) for _ in range(200_000))
    for place in (0, 229_370, 262_140, 491_000, 790_000):
        text = (page * 4)[:place] + "\n" + asked(SHORT) + "\n" + (page * 4)[place:]
        assert found(text) == {SHORT.id}, place


def test_siblings_are_told_apart() -> None:
    """Questions of one template, with other values, are each found as itself and as no other."""
    names, numbers = ("小明", "小红", "小刚", "小丽"), ("三", "五", "七", "九")
    others = ("王芳", "李雷")

    def sibling(name: str, number: str) -> BenchmarkQuestion:
        return BenchmarkQuestion(
            benchmark="cmmlu",
            id=f"{name}/{number}",
            stem=f"{name}原来有{number}个苹果，后来又买了两个，请问{name}现在一共有几个苹果？",
            options=("五个", "七个", "九个", "十一个"),
        )

    index = Index.build([sibling(name, number) for name in names for number in numbers[:3]], CONFIG)
    for name in names + others:
        for number in numbers:
            expected = {f"{name}/{number}"} if name in names and number != "九" else set()
            assert found(asked(sibling(name, number)), index) == expected


TEMPLATE = (
    "In the lesson {name} has {count} of the things called {thing} and gives one away. How many "
)
TEMPLATE += "things called {thing} belong to {name} afterwards?"


@pytest.mark.parametrize(
    ("slot", "words", "other"),
    [
        ("name", ("George", "Emma", "Owen"), "Mark"),
        ("thing", ("cup", "key", "watch"), "mirror"),
        ("thing", ("cup", "key", "watch"), "hats"),
        ("count", ("four", "three", "two"), "seven"),
        ("count", ("four", "three", "two"), "five"),
    ],
)
def test_a_question_of_the_same_template_is_another_one(
    slot: str, words: tuple[str, ...], other: str
) -> None:
    """A word or a number of 24 is another one: so is the question."""

    def question(word: str) -> BenchmarkQuestion:
        values = {"name": "Diana", "count": "nine", "thing": "phone"} | {slot: word}
        return BenchmarkQuestion(
            benchmark="mmlu",
            id=f"{word}/test/0",
            stem=TEMPLATE.format(**values),
            options=("one", "two", "three", "four"),
        )

    index = Index.build([question(word) for word in words], CONFIG)
    for word in words:
        text = asked(question(word))
        assert found(text, index) == {f"{word}/test/0"}
        # A misprint is none of these.
        assert found(text.replace("lesson", "leson"), index) == {f"{word}/test/0"}
    assert found(asked(question(other)), index) == set()


def test_a_collision_of_hashes_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every n-gram of every text gets the same hash: only the tokens decide."""
    constant = ngrams
    monkeypatch.setattr(
        "corpus.decontaminate.index.ngrams", lambda hashes, n: constant(hashes, n) * 0
    )
    index = Index.build([SHORT], CONFIG)
    assert found("今天的天气很好，我们一起到公园里去散步吧，好不好？" * 5, index) == set()
    assert found("今天的天气很好。" + asked(SHORT), index) == {SHORT.id}


# --- the index


def test_what_is_too_short_is_listed() -> None:
    assert list(INDEX.unchecked()) == [TINY]
    about = describe_index(INDEX)
    assert (about["questions"], about["checkable"], about["not_checkable"]) == (4, 3, 1)
    assert about["not_checkable_ids"] == ["ceval/physics/val/4"]
    assert about["splits"] == {"ceval/val": 2, "cmmlu/test": 1, "mmlu/test": 1}
    json.dumps(about)


def test_a_saved_index_finds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "index" / "benchmarks.npz"
    INDEX.save(path)
    index = Index.load(path)
    for question in FOUND:
        assert index.find(asked(question)) == INDEX.find(asked(question))
    assert index.config == CONFIG
    assert describe_index(index) == describe_index(INDEX)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.npz"
    with pytest.raises(DataError, match=r"benchmarks\.npz"):
        Index.load(path)
    INDEX.save(path)
    about = path.with_suffix(".json")
    text = about.read_text()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="not of one index"):
        Index.load(path)
    INDEX.save(path)
    about.write_text(json.dumps(json.loads(text) | {"forms": "0"}))
    with pytest.raises(DataError, match="OpenCC"):
        Index.load(path)


def test_another_process_makes_the_same_index(tmp_path: Path, root: Path) -> None:
    write_benchmarks(tmp_path / "benchmarks", FOUND)
    program = (
        "import sys, hashlib; from pathlib import Path; from corpus.decontaminate import *\n"
        "index = build_index(Path(sys.argv[1]), (), ContaminationConfig())\n"
        "index.save(Path(sys.argv[2]))\n"
        "assert not {'prefect', 'mlflow', 'data_juicer'} & set(sys.modules)\n"
    )
    theirs, ours = tmp_path / "theirs.npz", tmp_path / "ours.npz"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "benchmarks"), str(theirs)],
        cwd=root,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    build_index(tmp_path / "benchmarks", (), CONFIG).save(ours)
    for suffix in (".npz", ".json"):
        assert theirs.with_suffix(suffix).read_bytes() == ours.with_suffix(suffix).read_bytes()


@settings(max_examples=10)
@given(st.permutations([*(asked(q) for q in FOUND), "没有题目的一页。", "Nothing here."]))
def test_documents_do_not_depend_on_each_other(documents: list[str]) -> None:
    assert {d: tuple(INDEX.find(d)) for d in documents} == {
        d: tuple(INDEX.find(d)) for d in sorted(documents)
    }


def test_every_split_but_the_worked_examples_is_looked_for(tmp_path: Path) -> None:
    dev = BenchmarkQuestion(
        benchmark="ceval", id="physics/dev/0", stem="别人" + SHORT.stem, options=SHORT.options
    )
    write_benchmarks(tmp_path, (*FOUND, dev))
    hidden = tmp_path / "ceval" / "test" / "physics_test.csv"
    hidden.parent.mkdir()
    hidden.write_text(
        "id,question,A,B,C,D\n0,声音在空气中的传播速度约为多少米每秒,340,350,360,370\n"
    )
    index = build_index(tmp_path, (), CONFIG)
    assert {f"{q.benchmark}/{q.id}" for q in index.questions} == {
        "cmmlu/poetry/test/0",
        "ceval/physics/val/0",
        "ceval/physics/test/0",
        "mmlu/anatomy/test/0",
    }
    assert [q.benchmark for q in build_index(tmp_path, ("mmlu",), CONFIG).questions] == ["mmlu"]
    with pytest.raises(DataError, match="gsm8k"):
        build_index(tmp_path, ("gsm8k",), CONFIG)
    with pytest.raises(DataError, match="no benchmark"):
        build_index(hidden.parent, (), CONFIG)


@pytest.mark.parametrize(
    "change", [{"ngram": 2}, {"overlap": 0.0}, {"sibling_overlap": 1.5}, {"min_tokens": 4}]
)
def test_contradictions_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"sft.contamination.{next(iter(change))}"):
        validate(ContaminationConfig(**change), "sft.contamination")
