"""Evaluation questions in texts: found however they are typeset, and nothing else is."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opencc import OpenCC

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import read_json_lines
from common.paths import RECIPES
from corpus.chats import Sample, build_mixture, load_mixture, read_samples
from corpus.decontaminate import (
    BenchmarkQuestion,
    ContaminationConfig,
    Index,
    build_index,
    describe_index,
    match_row,
)
from corpus.decontaminate.tokens import ngrams, tokenize
from corpus.sample_data import DATASETS, SampleDataConfig, write_dataset
from tasks.core.finetune import mixture_files, report_mixture
from tasks.core.manifest import StageResult
from tasks.dpo import DpoConfig, write_pairs
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import run_stage, stage_run

TO_TRADITIONAL = OpenCC("s2t").convert

POEM = BenchmarkQuestion(
    benchmark="cmmlu",
    id="poetry/test/0",
    stem="“落霞与孤鹜齐飞，秋水共长天一色”出自下列哪一篇文章？这篇文章的作者是____。",
    options=("《滕王阁序》王勃", "《岳阳楼记》范仲淹", "《醉翁亭记》欧阳修", "《赤壁赋》苏轼"),
)
SHORT = BenchmarkQuestion(
    benchmark="ceval",
    id="physics/val/3",
    stem="光在真空中的速度约为____。",
    options=("3×10^8米每秒", "3×10^5米每秒", "340米每秒", "1500米每秒"),
)
ENGLISH = BenchmarkQuestion(
    benchmark="mmlu",
    id="anatomy/test/7",
    stem="Which of these nerves carries sensation from the front two thirds of the tongue?",
    options=("The lingual nerve", "The vagus nerve", "The facial nerve", "The optic nerve"),
)
TINY = BenchmarkQuestion(
    benchmark="ceval", id="physics/val/4", stem="1+1=", options=("1", "2", "3", "4")
)
FOUND = (POEM, SHORT, ENGLISH)
CONFIG = ContaminationConfig()
INDEX = Index.build((*FOUND, TINY), CONFIG)


def found(text: str, index: Index = INDEX) -> set[str]:
    return {match.question_id for match in index.find(text)}


def asked(question: BenchmarkQuestion) -> str:
    lines = (f"{letter}. {o}" for letter, o in zip("ABCD", question.options, strict=True))
    return "\n".join((question.stem, *lines))


# --- tokens


def test_tokens_forget_typesetting_and_keep_words() -> None:
    same = [
        "Ｘ是（　）。Ａ．漢語 2㎏ CAFE\u0301",
        "x是____A.汉语2kg café",
        "x 是【】汉语，2 kg café",
    ]
    assert {tokenize(text).strings() for text in same} == {
        ("x", "是", "汉", "语", "2", "kg", "cafe")
    }
    assert len({tuple(tokenize(text).hashes.tolist()) for text in same}) == 1


@pytest.mark.parametrize("standard", ["s2t", "s2tw", "s2hk"])
def test_both_scripts_give_the_same_tokens(standard: str) -> None:
    text = "他看着后面的房间，不了解反复发炎的原因；乾隆年间借着仿佛复苏的丰收，坐在台湾。"
    assert tokenize(OpenCC(standard).convert(text)).strings() == tokenize(text).strings()


def test_labels_and_blanks_are_no_tokens() -> None:
    assert tokenize("（A）甲 B. 乙 ____ c、丙 H").strings() == ("甲", "乙", "丙", "h")
    assert tokenize("").strings() == tokenize("A……（　）").strings() == ()
    assert tokenize("\ud800汉\udfff").strings() == ("汉",)


TEXT = st.text(max_size=200)
WORDS = st.text("汉语漢語abAB12 ，.é½㎏①\u0301が한Я", max_size=60)


@given(WORDS, WORDS)
def test_hashes_are_equal_where_tokens_are(one: str, other: str) -> None:
    left, right = tokenize(one), tokenize(other)
    assert (left.strings() == right.strings()) == (left.hashes.tolist() == right.hashes.tolist())


@given(TEXT)
def test_tokens_do_not_depend_on_case_or_width_and_know_their_place(text: str) -> None:
    tokens = tokenize(text)
    strings = tokens.strings()
    assert len(strings) == len(tokens.hashes)
    for i, string in enumerate(strings):
        begin, end = tokens.span(i, i + 1)
        # In itself, a token may begin amid what one character stands for: ½ is 1 and 2.
        assert string in tokenize(text[begin:end]).strings()


@given(st.text("ab1汉，", max_size=80), st.integers(1, 12))
def test_ngrams_are_equal_where_their_tokens_are(text: str, length: int) -> None:
    tokens = tokenize(text)
    strings, hashes = tokens.strings(), ngrams(tokens.hashes, length).tolist()
    runs = [strings[i : i + length] for i in range(len(strings) - length + 1)]
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs)) == len(set(zip(hashes, runs, strict=True)))


# --- found, however it stands there


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


VARIANTS: dict[str, Callable[[BenchmarkQuestion, random.Random], str]] = {
    "as it is": lambda q, rng: asked(q),
    "options in another order": lambda q, rng: asked(shuffled(q, rng)),
    "one option missing": lambda q, rng: asked(without_one(q, rng)),
    "traditional": lambda q, rng: TO_TRADITIONAL(asked(q)),
    "other punctuation, full width": lambda q, rng: wide(asked(q)),
    "5% edited": lambda q, rng: edited(asked(q), rng),
}


def shuffled(question: BenchmarkQuestion, rng: random.Random) -> BenchmarkQuestion:
    options = rng.sample(question.options, len(question.options))
    return BenchmarkQuestion(benchmark="", id="", stem=question.stem, options=tuple(options))


def without_one(question: BenchmarkQuestion, rng: random.Random) -> BenchmarkQuestion:
    options = list(question.options)
    options[rng.randrange(len(options))] = ""
    return BenchmarkQuestion(benchmark="", id="", stem=question.stem, options=tuple(options))


def wide(text: str) -> str:
    text = text.replace("，", ", ").replace("。", ".").replace("____", "（　）").replace("？", "?")
    return "".join(chr(ord(c) + 0xFEE0) if 33 <= ord(c) < 127 else c for c in text)


def edited(text: str, rng: random.Random) -> str:
    """5 % of the characters replaced, left out, or preceded by another."""
    out = []
    for character in text:
        if character.isspace() or rng.random() >= 0.05:
            out.append(character)
            continue
        other = chr(rng.randrange(0x4E00, 0x9000)) if ord(character) > 0x3000 else rng.choice("xyz")
        out.append(rng.choice((other, "", other + character)))
    return "".join(out)


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

    def sibling(name: str, number: str) -> BenchmarkQuestion:
        return BenchmarkQuestion(
            benchmark="cmmlu",
            id=f"{name}/{number}",
            stem=f"{name}原来有{number}个苹果，后来又买了两个，请问{name}现在一共有几个苹果？",
            options=("五个", "七个", "九个", "十一个"),
        )

    index = Index.build([sibling(name, number) for name in names for number in numbers[:3]], CONFIG)
    for name in names:
        for number in numbers:
            expected = {f"{name}/{number}"} if number != "九" else set()
            assert found(asked(sibling(name, number)), index) == expected


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


def write_benchmarks(folder: Path, questions: tuple[BenchmarkQuestion, ...]) -> None:
    """Benchmark files as the benchmarks' authors lay them out."""
    for q in questions:
        subject, split, _ = q.id.split("/")
        name = f"{subject}.csv" if q.benchmark == "cmmlu" else f"{subject}_{split}.csv"
        path = folder / q.benchmark / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        letters = "A,B,C,D"
        head = {
            "cmmlu": f",Question,{letters},Answer\n",
            "ceval": f"id,question,{letters},answer\n",
            "mmlu": "",
        }[q.benchmark]
        cells = ['"' + cell.replace('"', '""') + '"' for cell in (q.stem, *q.options, "A")]
        number = "" if q.benchmark == "mmlu" else "0,"
        path.write_text(head + number + ",".join(cells) + "\n")


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
    "change", [{"ngram": 2}, {"overlap": 0.0}, {"sibling_overlap": 1.5}, {"min_tokens": 7}]
)
def test_contradictions_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"sft.contamination.{next(iter(change))}"):
        validate(ContaminationConfig(**change), "sft.contamination")


# --- conversations and pairs


def write_chats(folder: Path) -> None:
    rows = [
        {"instruction": "写一首关于春天的诗。", "input": "", "output": "春天来了，花儿开了。"},
        {"instruction": asked(POEM), "input": "", "output": "《滕王阁序》王勃"},
        {"instruction": "帮我出一道题。", "input": "", "output": wide(asked(SHORT))},
        {"instruction": "讲个笑话。", "input": "", "output": "从前有一个人。"},
    ]
    path = folder / "alpaca_zh" / "zh-data.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows, ensure_ascii=False))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mixture of one set."""
    recipes = tmp_path / "recipes"
    (recipes / "mixtures").mkdir(parents=True)
    for kind in ("sft", "evals", "preferences"):
        (recipes / kind).symlink_to(RECIPES / kind)
    (recipes / "mixtures" / "trial.yaml").write_text("{title: Trial, sets: {alpaca_zh: {}}}")
    monkeypatch.setattr("common.recipes.RECIPES", recipes)
    return "trial"


@pytest.mark.parametrize("action", ["drop", "flag", "off"])
def test_conversations_with_questions_are_dropped_or_flagged(
    tmp_path: Path, recipe: str, action: Any
) -> None:
    write_chats(tmp_path / "data")
    write_benchmarks(tmp_path / "benchmarks", FOUND)
    run = stage_run(tmp_path / "sft")
    data, benchmarks = (
        StageResult(stage="acquire", key=name, folder=tmp_path / name, manifest={})
        for name in ("data", "benchmarks")
    )
    files = mixture_files(
        run,
        ["alpaca_zh"],
        ContaminationConfig(action=action),
        data=data,
        benchmarks=benchmarks,
        remedy="",
    )
    (row,) = build_mixture(load_mixture(recipe), files, seed=1)
    report_mixture(run, "mixture trial", "conversations", [row], files)
    assert row.taken == len(list(read_json_lines(run.folder / "mixture.jsonl")))
    if action == "off":
        assert (row.taken, row.contaminated) == (4, 0)
        assert not (run.folder / "contamination.jsonl").exists()
        assert run.notes["contamination"] == {"action": "off"}
        return
    assert (row.taken, row.contaminated) == ((2 if action == "drop" else 4), 2)
    lines = list(read_json_lines(run.folder / "contamination.jsonl"))
    assert [(line["id"], line["question_id"]) for line in lines] == [
        ("alpaca_zh/zh-data.json#2", "poetry/test/0"),
        ("alpaca_zh/zh-data.json#3", "physics/val/0"),
    ]
    columns = set(match_row(INDEX.find(asked(POEM))[0], "x"))
    assert all(set(line) == columns for line in lines)
    assert run.counts["contaminated"] == run.counts["contaminated.alpaca_zh"] == 2
    assert run.notes["contamination"]["index"]["questions"] == 3
    _, table = run.track.tables.values()  # type: ignore[attr-defined]
    assert {row["question"] for row in table} == {"cmmlu/poetry/test/0", "ceval/physics/val/0"}


def test_pairs_with_questions_are_left_out(tmp_path: Path, recipe: str) -> None:
    write_benchmarks(tmp_path / "benchmarks", FOUND)
    prompts = [f"第{number}个问题是什么？" for number in range(5)] + [asked(POEM)]
    rows = [{"instruction": p, "chosen": "好的回答。", "rejected": "坏的回答。"} for p in prompts]
    recipes = tmp_path / "recipes" / "preferences"
    recipes.unlink()
    recipes.mkdir()
    (recipes / "pairs.yaml").write_text(
        "{title: P, licence: none, language: zh, format: instruction_pair, files: ['*.jsonl']}"
    )
    path = tmp_path / "data" / "pairs" / "p.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    run = stage_run(tmp_path / "dpo")
    data, benchmarks = (
        StageResult(stage="acquire", key=name, folder=tmp_path / name, manifest={})
        for name in ("data", "benchmarks")
    )
    assert (
        write_pairs(run, DpoConfig(sets=("pairs",), chinese_per_english=0), data, benchmarks) == 5
    )
    assert run.counts["contaminated.pairs"] == 1
    (line,) = read_json_lines(run.folder / "contamination.jsonl")
    assert (line["id"], line["question_id"]) == ("pairs/p.jsonl#6", "poetry/test/0")


# --- the sample data: its training texts use the benchmarks' templates, never their questions


@pytest.mark.slow
def test_nothing_of_the_sample_data_is_called_a_benchmark_question(tmp_path: Path) -> None:
    config = SampleDataConfig(scale=0.3)
    for kind in ("corpora", "sft", "evals"):
        for name in DATASETS[kind]:
            write_dataset(kind, name, tmp_path / kind / name, config)
    index = build_index(tmp_path / "evals", (), CONFIG)
    raw = StageResult(
        stage="acquire",
        key="raw",
        folder=tmp_path / "corpora",
        manifest={"counts": {}, "notes": {}},
    )
    run = run_stage(normalize, tmp_path / "normalized", NormalizeConfig(), raw=raw)
    texts = [line["text"] for path in run.folder.glob("*.jsonl") for line in read_json_lines(path)]
    for name in DATASETS["sft"]:
        texts += [
            "\n".join(sample.content.texts)
            for sample in read_samples("sft", tmp_path / "sft" / name, name)
            if isinstance(sample, Sample)
        ]
    assert len(texts) > 2000
    assert [text for text in texts if index.find(text)] == []
    for question in index.questions[::20]:
        text = texts[0] + "\n" + asked(question)
        assert question.id in found(text, index)


# --- real rows


@pytest.fixture(scope="module")
def real_index(shared: Path) -> Index:
    return build_index(shared / "data" / "eval", (), CONFIG)


def real_texts(shared: Path, *patterns: str) -> list[str]:
    """The lines of JSON-lines files, as they are."""
    files = sorted(path for p in patterns for path in (shared / "data" / "pretrain").glob(p))
    return [line for path in files for line in path.read_text(errors="replace").splitlines()]


REAL = ("sky/*.jsonl", "wanjuan/*.jsonl", "baidu_baike/*.json", "english/*.jsonl")


def test_planted_real_questions_are_found_and_real_rows_hold_none(
    shared: Path, real_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """300 real questions in real documents; thresholds are what was measured, minus a margin."""
    documents = real_texts(shared, *REAL)
    assert sum(bool(real_index.find(document)) for document in documents) == 0
    rng = random.Random(5)
    hits: Counter[str] = Counter()
    questions = rng.sample(real_index.questions, 300)
    for question in questions:
        for name, variant in VARIANTS.items():
            document = rng.choice(documents)
            at = rng.randrange(len(document) + 1)
            text = f"{document[:at]}\n{variant(question, rng)}\n{document[at:]}"
            keys = {(match.benchmark, match.question_id) for match in real_index.find(text)}
            hits[name] += (question.benchmark, question.id) in keys
    with capsys.disabled():
        print("\nrecall on 300 planted real questions:")
        for name in VARIANTS:
            print(f"  {name:32} {hits[name] / len(questions):6.1%}")
    least = {
        "as it is": 0.99,
        "options in another order": 0.96,
        "one option missing": 0.97,
        "traditional": 0.97,
        "other punctuation, full width": 0.98,
        "5% edited": 0.25,
    }
    assert {name for name, share in least.items() if hits[name] < share * len(questions)} == set()


def test_a_real_paraphrase_is_found_in_another_benchmark(shared: Path, real_index: Index) -> None:
    """AGIEval's Gaokao asks a question of C-Eval in nearly the same words."""
    path = shared / "data" / "eval" / "agieval" / "gaokao-biology.jsonl"
    matches = {
        (match.benchmark, match.question_id): match.overlap
        for line in path.read_text().splitlines()
        for match in real_index.find(line)
    }
    assert ("ceval", "high_school_biology/test/141") in matches
    # Each question of a benchmark is found in itself.
    for question in real_index.questions[::97]:
        if question not in set(real_index.unchecked()):
            assert question.id in found(asked(question), real_index)
