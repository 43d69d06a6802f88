"""Formats of the sample data: files, keys and types are those of the real data sets."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.recipes import load_recipe
from corpus.chats.formats import CHAT_FORMATS
from corpus.chats.language import language_of
from corpus.chats.recipes import ChatSetRecipe
from corpus.sample_data import DATASETS
from corpus.sample_data.benchmarks import SUBJECTS
from corpus.sample_data.questions import LETTERS
from tests.corpus.sample_data.records import all_rows, logiqa_questions, rows_of

REAL_FILES = {
    "skypile": "pretrain/sky/*.jsonl",
    "wikipedia_cn": "pretrain/wiki_cn/*.json",
    "baidu_baike": "pretrain/baidu_baike/*.json",
    "baidu_qa": "pretrain/baidu_QA/*.json",
    "zhihu": "pretrain/zhihu/*.parquet",
    "belle_2m": "pretrain/BELLE/train_2M*.json",
    "belle_3_5m": "pretrain/BELLE/train_3.5M*.json",
    "firefly": "pretrain/firefly/*.jsonl",
    "starcoder_cpp": "pretrain/starcode/cpp/*.parquet",
    "starcoder_java": "pretrain/starcode/java/*.parquet",
    "starcoder_python": "pretrain/starcode/python/*.parquet",
}


def shape(value: Any) -> Any:
    """Keys and types of a record; a list is as its first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


@pytest.mark.parametrize("name", REAL_FILES)
def test_corpora_have_the_shape_of_real_rows(name: str, sample_files: Path, shared: Path) -> None:
    (real,) = (shared / "data").glob(REAL_FILES[name])
    (ours,) = (p for p in (sample_files / "corpora" / name).rglob("*") if p.is_file())
    assert ours.suffix == real.suffix
    real_shapes = [shape(row) for row in rows_of(real)]
    for row in rows_of(ours):
        assert shape(row) in real_shapes
    # One JSON array, or JSON lines, whatever the suffix says.
    assert ours.read_bytes()[:1] == real.read_bytes()[:1]


def test_parquet_columns_have_the_real_types(sample_files: Path, shared: Path) -> None:
    for name in (name for name, pattern in REAL_FILES.items() if pattern.endswith(".parquet")):
        (real,) = (shared / "data").glob(REAL_FILES[name])
        (ours,) = (sample_files / "corpora" / name).rglob("*.parquet")
        assert pq.read_schema(ours).equals(pq.read_schema(real), check_metadata=False)


def test_wanjuan_web_pages_have_the_real_keys(sample_files: Path, shared: Path) -> None:
    (real,) = (shared / "data/pretrain/wanjuan").glob("*.jsonl")
    pages = all_rows(sample_files / "corpora/wanjuan/WebText-cn")
    assert {tuple(row) for row in pages} == {tuple(row) for row in rows_of(real)}


def test_wanjuan_questions_have_its_fields(sample_files: Path) -> None:
    # Fields of WanJuan 1.0's exam part; q_main, option_a … and std_ans are what its users read.
    fields = ["id", "q_type", "q_main", *(f"option_{letter}" for letter in "abcde")]
    fields += ["std_ans", "answer", "answer_detail", "grade", "major", "keypoint"]
    for folder in ("corpora/wanjuan/Exam-cn", "sft/wanjuan_mcq"):
        for row in all_rows(sample_files / folder):
            assert list(row) == fields
            options = [row[f"option_{letter}"] for letter in "abcd"]
            assert row["std_ans"] in LETTERS
            assert len(set(options)) == 4
            assert all(options)


def test_moss_conversations_have_the_real_shape(sample_files: Path, shared: Path) -> None:
    import gzip

    with gzip.open(shared / "data/sft/moss/moss_conversations.jsonl.gz", "rt") as file:
        real = [json.loads(line) for line in file]
    keys = {key for row in real for key in row} - {"_path"}
    turn_keys = {key for row in real for turn in row["chat"].values() for key in turn}
    for row in all_rows(sample_files / "corpora/moss"):
        assert set(row) <= keys
        assert list(row["chat"]) == [f"turn_{n + 1}" for n in range(row["num_turns"])]
        for turn in row["chat"].values():
            assert set(turn) == turn_keys
            assert turn["Human"].startswith("<|Human|>: ")
            assert turn["MOSS"].endswith("<eom>\n")


def test_zhihu_shows_upvotes_in_words(sample_files: Path) -> None:
    rows = all_rows(sample_files / "corpora/zhihu")
    upvotes = [json.loads(row["METADATA"])["upvotes"] for row in rows]
    assert "赞同 1.2 万" in upvotes
    assert any(re.fullmatch(r"赞同 \d+", shown) for shown in upvotes)


def test_most_baike_summaries_are_missing(sample_files: Path) -> None:
    rows = all_rows(sample_files / "corpora/baidu_baike")
    missing = [row for row in rows if not row["summary"]]
    assert len(rows) / 2 < len(missing) < len(rows)
    assert all(row["sections"] for row in missing[:5])


SFT_SHAPES = {
    "infinity_instruct": {
        "id": "str",
        "conversations": [{"from": "str", "value": "str"}],
        "label": {
            key: ["str"]
            for key in ("ability_en", "ability_zh", "cate_ability_en", "cate_ability_zh")
        },
        "langdetect": "str",
        "source": "str",
    },
    "ruozhiba": {"instruction": "str", "output": "str"},
    "self_awareness": {"instruction": "str", "input": "str", "output": "str"},
    "code_feedback": {"id": "int", "messages": [{"role": "str", "content": "str"}]},
    "web_instruct_sub": {
        "orig_question": "str",
        "orig_answer": "str",
        "source": "str",
        "question": "str",
        "answer": "str",
        "index": "int",
    },
    "openhermes": {
        "conversations": [{"from": "str", "value": "str"}],
        "source": "str",
        "category": "str",
        "skip_prompt_formatting": "bool",
    },
    "openbookqa": {
        "id": "str",
        "question_stem": "str",
        "choices": {"text": ["str"], "label": ["str"]},
        "answerKey": "str",
    },
    "arc": {
        "id": "str",
        "question": "str",
        "choices": {"text": ["str"], "label": ["str"]},
        "answerKey": "str",
    },
    "logiqa": {"answer": "str", "stem": "str", "options": ["str"]},
}


@pytest.mark.parametrize("name", SFT_SHAPES)
def test_sft_rows_have_their_format(name: str, sample_files: Path) -> None:
    rows = all_rows(sample_files / "sft" / name)
    assert len(rows) >= 20
    assert {json.dumps(shape(row)) for row in rows} == {json.dumps(SFT_SHAPES[name])}


def test_logiqa_has_the_real_lines(sample_files: Path, shared: Path) -> None:
    real = (shared / "data/sft/multiple_choice/logiqa/Eval.txt").read_text()
    lettered = ["A.", "B.", "C.", "D."]
    for found, least in (
        (list(logiqa_questions(real)), 0.97),  # options of a few real rows lack their letter
        (all_rows(sample_files / "sft/logiqa"), 1.0),
    ):
        assert {row["answer"] for row in found} == set("abcd")
        sound = [row for row in found if [o[:2] for o in row["options"]] == lettered]
        assert len(sound) >= least * len(found) > 0


def test_english_question_sets_are_english_letters_for_the_recipes_of_the_real_ones(
    sample_files: Path,
) -> None:
    for name in ("openbookqa", "arc", "logiqa"):
        recipe = load_recipe(ChatSetRecipe, "sft", name)
        rows = all_rows(sample_files / "sft" / name)
        if name == "logiqa":
            rows = [
                {"lines": [r["answer"], *r["stem"].rsplit(". ", 1), *r["options"]]} for r in rows
            ]
        answers = Counter[str]()
        for row in rows:
            (chat,) = CHAT_FORMATS[recipe.format](row)
            assert chat.style == "letter" and language_of(chat.messages) == "en"
            answers[chat.messages[-1]["content"]] += 1
        assert set(answers) == set(LETTERS)
        assert max(answers.values()) - min(answers.values()) <= 0.2 * answers.total()


def test_ruozhiba_and_self_awareness_match_real_rows(sample_files: Path, shared: Path) -> None:
    for ours, real in (
        ("ruozhiba", "sft/ruozhiba/ruozhiba_qa.json"),
        ("self_awareness", "sft/emollm/self_cognition_EmoLLM.json"),
    ):
        (file,) = (sample_files / "sft" / ours).iterdir()
        assert file.name == Path(real).name
        assert shape(rows_of(file)[0]) == shape(rows_of(shared / "data" / real)[0])


def test_preferences_stand_four_to_one_and_differ(sample_files: Path) -> None:
    chinese = all_rows(sample_files / "preferences/ultrafeedback_chinese")
    english = all_rows(sample_files / "preferences/ultrafeedback_english")
    assert len(chinese) == 4 * len(english)
    assert all(row["chosen_response"] != row["rejected_response"] for row in chinese)
    assert all(row["chosen_rating"] > row["rejected_rating"] for row in chinese)
    for row in english:
        assert row["chosen"][0] == row["rejected"][0] == {"content": row["prompt"], "role": "user"}
        assert row["chosen"][1]["content"] != row["rejected"][1]["content"]
        assert row["chosen-rating"] > row["rejected-rating"]


@pytest.mark.parametrize("name", DATASETS["evals"])
def test_benchmark_files_have_the_real_layout(name: str, sample_files: Path, shared: Path) -> None:
    ours, real = sample_files / "evals" / name, shared / "data/eval" / name
    real_folders = {path.parent.name for path in real.rglob("*.csv")}
    assert {path.parent.name for path in ours.rglob("*.csv")} == real_folders
    assert {path.name for path in ours.glob("*.zip")} == {path.name for path in real.glob("*.zip")}
    for folder in real_folders:
        example = next((real / folder).glob("*.csv"))
        suffix = example.name.endswith(f"_{folder}.csv")
        header = example.read_bytes().split(b"\n")[0]
        for path in (ours / folder).glob("*.csv"):
            assert path.name.endswith(f"_{folder}.csv") == suffix
            if name != "mmlu":
                assert path.read_bytes().split(b"\n")[0] == header
    mapping = json.loads((ours / "subject_mapping.json").read_text())
    assert mapping.keys() == SUBJECTS[name].keys()
    real_mapping = json.loads((real / "subject_mapping.json").read_text())
    assert shape(next(iter(mapping.values()))) == shape(next(iter(real_mapping.values())))


def test_lm_eval_knows_every_subject() -> None:
    import importlib.util

    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations
    tasks = Path(spec.submodule_search_locations[0]) / "tasks"
    patterns = {"ceval": "ceval/ceval-valid_{}", "cmmlu": "cmmlu/cmmlu_{}"}
    patterns["mmlu"] = "mmlu/default/mmlu_{}"
    for name, subjects in SUBJECTS.items():
        for subject in subjects:
            assert (tasks / f"{patterns[name].format(subject)}.yaml").is_file()
