"""The sample data: same bytes every time, formats of the real data, dirt, and nothing leaked."""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError
from corpus.sample_data import DATASETS, SampleDataConfig, write_dataset
from corpus.sample_data.noise import EVERY, MALFORMED, TEXT_DIRT, soil
from corpus.sample_data.question_files import NUM_DEV, SUBJECTS
from corpus.sample_data.questions import LETTERS, WEIGHTS, Family, questions, split_of
from corpus.sample_data.world import (
    CITIZEN_ATTRIBUTES,
    CITIZENS,
    KINDS,
    Language,
    character_facts,
    make_world,
)

CONFIG = SampleDataConfig()
LANGUAGES: tuple[Language, ...] = ("zh", "en")


@pytest.fixture(scope="module")
def world_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set at scale 1, as <kind>/<name>/…"""
    folder = tmp_path_factory.mktemp("sample-data")
    for kind, names in DATASETS.items():
        for name in names:
            write_dataset(kind, name, folder / kind / name, CONFIG)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """MD5 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Every record of a file that can be read."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    data = path.read_bytes()
    if data.lstrip().startswith(b"["):
        return list(json.loads(data))
    found = []
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def all_rows(folder: Path) -> list[dict[str, Any]]:
    """Every record of every file below a folder."""
    return [row for path in sorted(folder.rglob("*")) if path.is_file() for row in rows_of(path)]


def exam_rows(folder: Path, name: str) -> Iterator[tuple[str, str, list[str]]]:
    """(subject, split, [question, A, B, C, D, answer or nothing]) of a benchmark's CSV files."""
    texts = {
        path.relative_to(folder / name).as_posix(): path.read_bytes()
        for path in sorted((folder / name).rglob("*.csv"))
    }
    for archive in (folder / name).glob("*.zip"):
        with zipfile.ZipFile(archive) as packed:
            texts |= {member: packed.read(member) for member in packed.namelist()}
    for place, data in texts.items():
        split, file = place.split("/")
        subject = re.sub(rf"(_{split})?\.csv$", "", file)
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        if name != "mmlu":
            rows = [row[1:] for row in rows[1:]]
        for row in rows:
            yield subject, split, row[:6]


@pytest.mark.parametrize("kind", DATASETS)
def test_the_same_seed_gives_the_same_bytes(kind: Any, world_files: Path, tmp_path: Path) -> None:
    for name in DATASETS[kind]:
        write_dataset(kind, name, tmp_path / name, CONFIG)
    assert digests(tmp_path) == digests(world_files / kind)


@pytest.mark.parametrize("kind", DATASETS)
def test_another_seed_gives_another_world(kind: Any, tmp_path: Path) -> None:
    for seed in (7, 8):
        for name in DATASETS[kind]:
            config = SampleDataConfig(seed=seed, scale=0.05)
            write_dataset(kind, name, tmp_path / str(seed) / name, config)
    first, second = digests(tmp_path / "7"), digests(tmp_path / "8")
    first.pop("self_awareness/self_cognition_EmoLLM.json", None)  # tells nothing of the world
    assert first.keys() <= second.keys()
    same = [path for path in first if first[path] == second[path]]
    assert [path for path in same if not path.endswith("subject_mapping.json")] == []


def test_scale_multiplies_the_rows(tmp_path: Path) -> None:
    for scale in (0.5, 1.0):
        config = SampleDataConfig(scale=scale)
        write_dataset("corpora", "firefly", tmp_path / str(scale), config)
    half, whole = len(all_rows(tmp_path / "0.5")), len(all_rows(tmp_path / "1.0"))
    assert whole == 2 * half


@pytest.mark.parametrize(
    ("kind", "name", "scale", "message"),
    [
        ("corpora", "nosuch", 1.0, "no corpora data set 'nosuch'.*skypile"),
        ("evals", "skypile", 1.0, "no evals data set 'skypile'.*ceval"),
        ("corpora", "skypile", 0.0, "scale must be above 0"),
        ("corpora", "skypile", float("nan"), "scale must be above 0"),
    ],
)
def test_wrong_requests_are_refused(
    kind: Any, name: str, scale: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_dataset(kind, name, tmp_path / "x", SampleDataConfig(scale=scale))
    assert not (tmp_path / "x").exists()


# ---- formats -------------------------------------------------------------------------------------

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
def test_corpora_have_the_shape_of_real_rows(name: str, world_files: Path, shared: Path) -> None:
    (real,) = (shared / "data").glob(REAL_FILES[name])
    (ours,) = (p for p in (world_files / "corpora" / name).rglob("*") if p.is_file())
    assert ours.suffix == real.suffix
    real_shapes = [shape(row) for row in rows_of(real)]
    for row in rows_of(ours):
        assert shape(row) in real_shapes
    # One JSON array, or JSON lines, whatever the suffix says.
    assert ours.read_bytes()[:1] == real.read_bytes()[:1]


def test_parquet_columns_have_the_real_types(world_files: Path, shared: Path) -> None:
    for name in (name for name, pattern in REAL_FILES.items() if pattern.endswith(".parquet")):
        (real,) = (shared / "data").glob(REAL_FILES[name])
        (ours,) = (world_files / "corpora" / name).rglob("*.parquet")
        assert pq.read_schema(ours).equals(pq.read_schema(real), check_metadata=False)


def test_wanjuan_web_pages_have_the_real_keys(world_files: Path, shared: Path) -> None:
    (real,) = (shared / "data/pretrain/wanjuan").glob("*.jsonl")
    pages = all_rows(world_files / "corpora/wanjuan/WebText-cn")
    assert {tuple(row) for row in pages} == {tuple(row) for row in rows_of(real)}


def test_wanjuan_exam_items_have_its_fields(world_files: Path) -> None:
    # Fields of WanJuan 1.0's exam part; q_main, option_a … and std_ans are what its users read.
    fields = ["id", "q_type", "q_main", *(f"option_{letter}" for letter in "abcde")]
    fields += ["std_ans", "answer", "answer_detail", "grade", "major", "keypoint"]
    for folder in ("corpora/wanjuan/Exam-cn", "sft/wanjuan_mcq"):
        for row in all_rows(world_files / folder):
            assert list(row) == fields
            options = [row[f"option_{letter}"] for letter in "abcd"]
            assert row["std_ans"] in LETTERS
            assert len(set(options)) == 4
            assert all(options)


def test_moss_conversations_have_the_real_shape(world_files: Path, shared: Path) -> None:
    import gzip

    with gzip.open(shared / "data/sft/moss/moss_conversations.jsonl.gz", "rt") as file:
        real = [json.loads(line) for line in file]
    keys = {key for row in real for key in row} - {"_path"}
    turn_keys = {key for row in real for turn in row["chat"].values() for key in turn}
    for row in all_rows(world_files / "corpora/moss"):
        assert set(row) <= keys
        assert list(row["chat"]) == [f"turn_{n + 1}" for n in range(row["num_turns"])]
        for turn in row["chat"].values():
            assert set(turn) == turn_keys
            assert turn["Human"].startswith("<|Human|>: ")
            assert turn["MOSS"].endswith("<eom>\n")


def test_zhihu_shows_upvotes_in_words(world_files: Path) -> None:
    rows = all_rows(world_files / "corpora/zhihu")
    upvotes = [json.loads(row["METADATA"])["upvotes"] for row in rows]
    assert "赞同 1.2 万" in upvotes
    assert any(re.fullmatch(r"赞同 \d+", shown) for shown in upvotes)


def test_most_baike_summaries_are_missing(world_files: Path) -> None:
    rows = all_rows(world_files / "corpora/baidu_baike")
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
}


@pytest.mark.parametrize("name", SFT_SHAPES)
def test_sft_rows_have_their_format(name: str, world_files: Path) -> None:
    rows = all_rows(world_files / "sft" / name)
    assert len(rows) >= 20
    assert {json.dumps(shape(row)) for row in rows} == {json.dumps(SFT_SHAPES[name])}


def test_ruozhiba_and_self_awareness_match_real_rows(world_files: Path, shared: Path) -> None:
    for ours, real in (
        ("ruozhiba", "sft/ruozhiba/ruozhiba_qa.json"),
        ("self_awareness", "sft/emollm/self_cognition_EmoLLM.json"),
    ):
        (file,) = (world_files / "sft" / ours).iterdir()
        assert file.name == Path(real).name
        assert shape(rows_of(file)[0]) == shape(rows_of(shared / "data" / real)[0])


def test_preferences_stand_four_to_one_and_differ(world_files: Path) -> None:
    chinese = all_rows(world_files / "preferences/ultrafeedback_chinese")
    english = all_rows(world_files / "preferences/ultrafeedback_english")
    assert len(chinese) == 4 * len(english)
    assert all(row["chosen_response"] != row["rejected_response"] for row in chinese)
    assert all(row["chosen_rating"] > row["rejected_rating"] for row in chinese)
    for row in english:
        assert row["chosen"][0] == row["rejected"][0] == {"content": row["prompt"], "role": "user"}
        assert row["chosen"][1]["content"] != row["rejected"][1]["content"]
        assert row["chosen-rating"] > row["rejected-rating"]


@pytest.mark.parametrize("name", DATASETS["evals"])
def test_exam_files_look_like_the_real_ones(name: str, world_files: Path, shared: Path) -> None:
    ours, real = world_files / "evals" / name, shared / "data/eval" / name
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


# ---- exams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS["evals"])
def test_exams_are_whole_and_letters_balanced(name: str, world_files: Path) -> None:
    stems: Counter[str] = Counter()
    scored = {"ceval": "val", "cmmlu": "test", "mmlu": "test"}[name]
    letters: Counter[str] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for subject, split, row in exam_rows(world_files / "evals", name):
        stems[row[0]] += 1
        sizes[subject, split] += 1
        assert len(set(row[1:5])) == 4
        if split == scored:
            letters[row[5]] += 1
        if (name, split) == ("ceval", "test"):
            assert len(row) == 5, "C-Eval withholds these answers"
    assert max(stems.values()) == 1, "a question stands in two splits"
    assert {sizes[subject, "dev"] for subject in SUBJECTS[name]} == {NUM_DEV}
    assert 150 <= letters.total() <= 250
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) - min(letters.values()) <= len(SUBJECTS[name])


def test_no_test_question_stands_in_any_training_text(world_files: Path) -> None:
    stems = {row[0] for name in SUBJECTS for _, _, row in exam_rows(world_files / "evals", name)}
    assert len(stems) > 500
    seen = []
    for kind in ("corpora", "sft", "preferences"):
        for row in all_rows(world_files / kind):
            text = json.dumps(row, ensure_ascii=False)
            # Stems hold no character that JSON escapes except quotation marks.
            seen += [stem for stem in stems if stem.replace('"', '\\"') in text]
    assert seen == []


def test_training_never_asks_a_test_key(world_files: Path) -> None:
    world = make_world(CONFIG.seed)
    for family in WEIGHTS:
        for language in LANGUAGES:
            asked = {
                split: questions(Random(1), world, family, language, split, 40)
                for split in ("train", "test")
            }
            keys = {split: {question.key for question in found} for split, found in asked.items()}
            assert not keys["train"] & keys["test"]
            assert {split_of(question.stem) for question in asked["test"]} == {"test"}


def test_training_letters_are_balanced(world_files: Path) -> None:
    letters = Counter(row["std_ans"] for row in all_rows(world_files / "sft/wanjuan_mcq"))
    assert letters.total() >= 4000
    assert max(letters.values()) - min(letters.values()) < 0.02 * letters.total()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", WEIGHTS)
def test_the_marked_answer_is_the_true_one(family: Family, language: Language) -> None:
    world = make_world(3)
    for question in questions(Random(5), world, family, language, "train", 40):
        right = question.options[LETTERS.index(question.answer)]
        wrong = [option for option in question.options if option != right]
        assert len(wrong) == 3
        if family == "recall":
            _, thing, attribute = question.key.split("/")
            (fact,) = (
                fact
                for fact in world.facts
                if (fact.thing.zh, fact.attribute) == (thing, attribute)
            )
            assert right == KINDS[attribute].answer(fact.value, language)
        elif family == "sums":
            first, sign, second = question.key.split("/")[2]
            result = int(first) + (int(second) if sign == "+" else -int(second))
            assert question.answer == LETTERS[result - 1]
        elif family == "category":
            kind = KINDS[question.key.split("/")[1]]
            members = {word.name(language) for word in kind.words}
            assert right.removeprefix("一个") in members
            assert not {option.removeprefix("一个") for option in wrong} & members
        else:
            assert right in question.stem
            if family in ("ordered", "reading"):
                assert not [option for option in wrong if f"{option}。" in question.stem]
        if family in ("ordered", "sums"):
            kinds = [k for k in KINDS.values() if k.ordered]
            lists = [tuple(k.answer(w, language) for w in k.words) for k in kinds]
            assert question.options in lists


def test_world_is_consistent_and_values_are_dealt_evenly() -> None:
    world = make_world(7)
    for citizen in CITIZENS:
        facts = world.about(citizen)
        assert sorted(fact.attribute for fact in facts) == sorted(CITIZEN_ATTRIBUTES)
    jobs = Counter(fact.value.zh for fact in world.facts if fact.attribute == "job")
    assert max(jobs.values()) - min(jobs.values()) <= 1


def test_characters_differ_in_every_attribute() -> None:
    facts = character_facts(Random(0), 3, ("pet", "season"))
    for attribute in ("pet", "season"):
        values = [fact.value for fact in facts if fact.attribute == attribute]
        assert len(set(values)) == 3


def test_values_are_cut_alike_in_text_and_in_options(shared: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "data/tokenizer/tokenizer.json"))
    for kind in KINDS.values():
        for word in kind.words:
            chinese = kind.answer(word, "zh")
            inside = tokenizer.encode(f"，{chinese}。").ids[1:-1]
            option = tokenizer.encode(f"A. {chinese}").ids
            assert option[-len(inside) :] == inside, chinese
            assert len(tokenizer.encode(f" {word.en}").ids) == 1, word.en


# ---- dirt ----------------------------------------------------------------------------------------

MARKS = {
    "html": r"<p class='txt'>",
    "email": r"@valley-news\.example\.com",
    "link": r"https://www\.valley\.example\.org",
    "ip": r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
    "mojibake": r"Ã|â€",
    "latex": r"\\newcommand\{",
    "glyphs": r"^[◆●■►▲□]",
    "copyright_notice": r"Copyright \(c\)",
    "symbols": r"\|====\|",
}


@pytest.mark.parametrize("name", ["skypile", "wanjuan", "wikipedia_cn"])
def test_every_kind_of_dirt_is_there(name: str, world_files: Path) -> None:
    texts = [
        text
        for row in all_rows(world_files / "corpora" / name)
        for text in row.values()
        if isinstance(text, str)
    ]
    for kind, mark in MARKS.items():
        assert any(re.search(mark, text, re.MULTILINE) for text in texts), kind
    assert any(len(line) > 1000 for text in texts for line in text.split("\n"))
    assert any(len(set(lines)) <= len(lines) - 2 for lines in (t.split("\n") for t in texts))
    assert any(len(text) <= 2 for text in texts)
    ends = Counter(text[:-1] for text in set(texts) if len(text) > 100)
    assert max(ends.values()) > 1, "no near-duplicate"


def test_some_texts_are_traditional(world_files: Path) -> None:
    texts = [row["text"] for row in all_rows(world_files / "corpora/skypile")]
    num_traditional = sum("隻" in text or "輛" in text or "場" in text for text in texts)
    assert 0.03 < num_traditional / len(texts) < 0.2


def test_jsonl_corpora_hold_every_kind_of_malformed_line(world_files: Path) -> None:
    names = ("skypile", "baidu_baike", "baidu_qa", "belle_2m", "belle_3_5m", "moss", "firefly")
    for name in names:
        (file,) = (p for p in (world_files / "corpora" / name).rglob("*") if p.is_file())
        lines = file.read_bytes().split(b"\n")
        assert all(bad in lines[1:] for bad in MALFORMED)
        assert lines[0].startswith(b"{")


def test_code_has_headers_tags_long_lines_and_empty_files(world_files: Path) -> None:
    for name in ("starcoder_cpp", "starcoder_java", "starcoder_python"):
        contents = [row["content"] for row in all_rows(world_files / "corpora" / name)]
        assert any("Copyright (c)" in text and "@" in text for text in contents)
        assert any(text.startswith("<reponame>") for text in contents)
        assert any(len(line) > 1000 for text in contents for line in text.split("\n"))
        assert any(not text.strip() for text in contents)


def test_python_files_are_python(world_files: Path) -> None:
    contents = [row["content"] for row in all_rows(world_files / "corpora/starcoder_python")]
    for text in contents:
        compile(re.sub(r"^<reponame>.*\n", "", text), "sample.py", "exec")


def test_soil_changes_one_in_so_many() -> None:
    texts = [f"第{number}篇文章，讲的是一件小事。\n后来大家都知道了。" for number in range(260)]
    soiled = list(soil(Random(0), texts))
    changed = [index for index, text in enumerate(soiled) if text != texts[index]]
    assert changed == list(range(EVERY - 1, 260, EVERY))
    assert len(changed) >= 2 * len(TEXT_DIRT)
