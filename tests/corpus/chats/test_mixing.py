"""Mixtures: exact ratios, the same draw every time, and nothing lost by an interruption."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import read_json_lines
from common.paths import RECIPES, resolve
from common.recipes import load_config, load_recipe, read_yaml, recipe_path
from corpus.chats import Identity, Mixture, MixtureRow, MixtureSet, Pool, encoded_sets, load_mixture
from corpus.chats.encoded_sets import ReadSet, SetWork, encoded_set
from corpus.chats.mixing import apportion, draw, draw_mixture
from corpus.chats.recipes import ChatSetRecipe
from corpus.chats.sft_mixture import build_mixture
from flows.config import PipelineConfig
from model.tokenizer.folder import load_folder_tokenizer
from tasks.sft import SftConfig
from tests.corpus.chats.sets import write_mixture, write_sets
from tests.tiny_chat import write_model

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 500), min_size=1)


@given(sizes=SIZES, share=st.floats(0, 1))
def test_apportioned_shares_add_up_and_stay_proportional(
    sizes: dict[str, int], share: float
) -> None:
    everything = sum(sizes.values())
    total = int(share * everything)
    shares = apportion(total, sizes)
    assert sum(shares.values()) == total
    for name, size in sizes.items():
        assert 0 <= shares[name] <= size
        assert abs(shares[name] - total * size / max(1, everything)) < 1


@given(available=st.integers(0, 200), count=st.integers(0, 250), seed=st.text(max_size=4))
def test_a_draw_takes_each_at_most_once_and_always_the_same(
    available: int, count: int, seed: str
) -> None:
    drawn = list(draw(available, count, seed))
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(available, count)
    assert all(0 <= index < available for index in drawn)
    assert drawn == list(draw(available, count, seed))


def test_draws_depend_on_the_seed_and_are_not_a_prefix() -> None:
    one, two = (list(draw(1000, 100, seed)) for seed in ("1/a", "2/a"))
    assert one != two
    assert one != list(range(100))
    assert 400 < sum(one) / 100 < 600


LETTERS = st.text("ze", max_size=120)


@given(
    chinese=LETTERS,
    more=LETTERS,
    one=LETTERS,
    other=LETTERS,
    ratio=st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0]),
)
def test_a_pool_has_exactly_its_ratio_to_the_rest(
    chinese: str, more: str, one: str, other: str, ratio: float
) -> None:
    mixture = Mixture(
        title="t",
        sets={
            "chinese": MixtureSet(),
            "more": MixtureSet(fraction=0.5),
            "one": MixtureSet(pool="english"),
            "other": MixtureSet(pool="english"),
        },
        pools={"english": Pool(ratio=ratio, to="zh")},
    )
    languages = {"chinese": chinese, "more": more, "one": one, "other": other}
    drawn = draw_mixture(mixture, languages, seed=3)
    outside = sum(languages[n][i] == "z" for n in ("chinese", "more") for i in drawn[n])
    pooled = len(drawn["one"]) + len(drawn["other"])
    assert pooled == min(int(ratio * outside + 0.5), len(one) + len(other))
    assert len(drawn["more"]) == int(len(more) / 2 + 0.5)
    assert list(drawn) == list(languages)


def test_limits_count_after_fractions_and_a_new_set_changes_no_other_draw() -> None:
    sets = {"a": MixtureSet(fraction=0.5, limit=10), "b": MixtureSet(limit=7)}
    languages = {"a": "z" * 100, "b": "e" * 100}
    small = draw_mixture(Mixture(title="t", sets=sets), languages, seed=1)
    assert [len(small[name]) for name in "ab"] == [10, 7]
    sets = {"c": MixtureSet(), **sets}
    large = draw_mixture(Mixture(title="t", sets=sets), {"c": "z" * 5, **languages}, seed=1)
    assert (large["a"], large["b"]) == (small["a"], small["b"])


def test_the_papers_experiments_inherit_and_differ_as_table_3_says() -> None:
    names = [entry["mixture"] for entry in read_yaml(recipe_path("paper", "table3"))["experiments"]]
    one, two, three, four, five = (load_mixture(name) for name in names)
    assert one.sets["infinity_instruct"].language == "any"
    assert two.sets["infinity_instruct"].language == "zh"
    assert set(one.sets) == set(two.sets) == {"infinity_instruct", "wanjuan_mcq"}
    english = {"code_feedback", "web_instruct_sub", "openhermes"}
    assert english < set(three.sets)
    assert not three.pools
    assert {name for name, share in four.sets.items() if share.pool} == english
    assert four.pools == five.pools == {"english": Pool(ratio=0.25, to="zh")}
    assert set(five.sets) - set(four.sets) == {"openbookqa", "arc", "logiqa"}


def test_every_mixture_loads() -> None:
    for path in (RECIPES / "mixtures").glob("*.yaml"):
        validate(SftConfig(mixture=path.stem), "sft")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return write_mixture(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_folder_tokenizer(write_model(tmp_path_factory.mktemp("model")))


def read_all(
    tmp_path: Path, name: str, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> dict[str, ReadSet]:
    """The sets of a mixture, encoded in tmp_path/cache."""
    return {
        of_set: encoded_set(
            SetWork(
                name=of_set,
                folder=tmp_path / "data" / of_set,
                tokenizer=tokenizer,
                chat_template=None,
                **options,
            ),
            tmp_path / "cache",
        )
        for of_set in load_mixture(name).sets
    }


def mix(
    tmp_path: Path,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    output: str = "out",
    **options: Any,
) -> list[MixtureRow]:
    sets = read_all(tmp_path, name, tokenizer)
    options = {"seed": 7, "max_length": 2048, **options}
    return build_mixture(load_mixture(name), sets, tmp_path / output / "mixture.jsonl", **options)


def texts_of(tmp_path: Path, sets: dict[str, ReadSet], output: str = "out") -> list[str]:
    """The conversations of a mixture, as its sets' rows.jsonl have them."""
    rows = {name: list(read_json_lines(one.folder / "rows.jsonl")) for name, one in sets.items()}
    lines = read_json_lines(tmp_path / output / "mixture.jsonl")
    return [
        json.dumps(rows[line["set"]][line["row"]]["messages"], ensure_ascii=False) for line in lines
    ]


def test_mixture_file_holds_what_the_table_says(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    write_sets(tmp_path / "data")
    rows = {row.set: row for row in mix(tmp_path, recipe, tokenizer)}
    lines = list(read_json_lines(tmp_path / "out" / "mixture.jsonl"))
    assert Counter(line["set"] for line in lines) == {
        "alpaca_zh": 40,
        "wanjuan_mcq": 8,
        "code_alpaca": 12,
    }
    assert {name: row.taken for name, row in rows.items()} == Counter(x["set"] for x in lines)
    assert Counter(line["language"] for line in lines) == {"zh": 48, "en": 12}
    assert rows["alpaca_zh"].skipped == {"empty answer": 3}
    assert (rows["wanjuan_mcq"].usable, rows["wanjuan_mcq"].other) == (8, 16)
    assert len(list(read_json_lines(tmp_path / "out" / "quarantine" / "alpaca_zh.jsonl"))) == 3
    assert [path.name for path in (tmp_path / "out" / "quarantine").iterdir()] == [
        "alpaca_zh.jsonl"
    ]
    texts = texts_of(tmp_path, read_all(tmp_path, recipe, tokenizer))
    assert len(set(texts)) == len(texts), "a conversation was drawn twice"
    assert sum("回答" in text for text in texts) == 40


def test_ratios_hold_for_what_is_trained_on(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    data = write_sets(tmp_path / "data")
    path = data / "alpaca_zh" / "zh-data.json"
    long = [
        {"instruction": "问", "output": "很长的回答" * 100},
        {"instruction": "很长的问题" * 100, "output": "答"},
        {"instruction": "次", "output": "答", "history": [["先", "早" * 9], ["后", "长" * 300]]},
        {"instruction": "什麼", "output": "これは日本語の文章です。カタカナもあります。"},
    ]
    path.write_text(json.dumps([*json.loads(path.read_text()), *long]))
    rows = {row.set: row for row in mix(tmp_path, recipe, tokenizer, max_length=400)}
    row = rows["alpaca_zh"]
    assert row.left_out == {"prompt fills max_length": 1, "first answer ends beyond max_length": 1}
    assert (row.taken, row.chinese, row.neither, row.cut) == (42, 42, 0, 1)
    # A quarter of what is trained on in Chinese: 42 and 8 questions.
    assert rows["code_alpaca"].taken == 13


def test_a_set_is_read_once_for_all_mixtures(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(tmp_path / "data")
    sets = read_all(tmp_path, recipe, tokenizer)
    mix(tmp_path, recipe, tokenizer)
    monkeypatch.setattr("corpus.chats.encoded_sets._make", None)  # nothing is read again
    again = read_all(tmp_path, recipe, tokenizer, identity=Identity(name="Other"))
    assert {n: one.folder for n, one in again.items()} == {n: one.folder for n, one in sets.items()}
    mix(tmp_path, recipe, tokenizer, output="second", max_length=50)
    mix(tmp_path, recipe, tokenizer, output="third")
    first, third = ((tmp_path / out / "mixture.jsonl").read_bytes() for out in ("out", "third"))
    assert first == third


def test_a_damaged_set_is_encoded_again(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    write_sets(tmp_path / "data")
    folder = read_all(tmp_path, recipe, tokenizer)["alpaca_zh"].folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ids = bytearray(before["ids.npy"])
    ids[-1] ^= 1
    (folder / "ids.npy").write_bytes(ids)
    read_all(tmp_path, recipe, tokenizer)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_set_ends_as_an_uninterrupted_one(
    tmp_path: Path,
    recipe: str,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    write_sets(tmp_path / "data")
    whole = read_all(tmp_path, recipe, tokenizer)["alpaca_zh"].folder
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("corpus.chats.encoded_sets.RAW_ROWS", 7)
    monkeypatch.setattr("corpus.chats.encoded_sets.WORTH_WORKERS", 0 if workers > 1 else 1 << 40)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(workers))
    original = encoded_sets._join

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("corpus.chats.encoded_sets._join", die)
    with pytest.raises(KeyboardInterrupt):
        read_all(tmp_path, recipe, tokenizer)
    parts = sorted((tmp_path / "cache").rglob("part-*.npz"))
    assert len(parts) == 7
    parts[3].unlink()  # a part that was not finished
    monkeypatch.setattr("corpus.chats.encoded_sets._join", original)
    folder = read_all(tmp_path, recipe, tokenizer)["alpaca_zh"].folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_what_decides_about_a_set_makes_another_one(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_sets(tmp_path / "data")
    work = SetWork(
        name="alpaca_zh", folder=data / "alpaca_zh", tokenizer=tokenizer, chat_template=None
    )
    first = encoded_set(work, tmp_path / "cache").folder
    template = f"{tokenizer.chat_template}{{# other #}}"
    assert encoded_set(replace(work, chat_template=template), tmp_path / "cache").folder != first
    path = data / "alpaca_zh" / "zh-data.json"
    path.write_text(path.read_text() + "\n")
    assert encoded_set(replace(work), tmp_path / "cache").folder != first


def test_malformed_rows_are_counted_or_refused_by_name(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    data = write_sets(tmp_path / "data")
    path = data / "code_alpaca" / "code_alpaca.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0] | {"output": float("nan")}, None]))
    skipped = {row.set: row.skipped for row in mix(tmp_path, recipe, tokenizer, seed=1)}
    assert skipped["code_alpaca"] == {"`output` is NaN": 1, "not an object": 1}
    assert skipped["alpaca_zh"] == {"empty answer": 3}  # sound, only nothing to learn from
    with pytest.raises(DataError) as error:
        mix(tmp_path, recipe, tokenizer, on_bad_row="fail")
    assert str(error.value).startswith(
        "code_alpaca has 2 bad rows: code_alpaca.json, line 31: `output` is NaN; "
        "code_alpaca.json, line 32: not an object."
    )
    assert "on_bad_row: skip" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{title: t, sets: {alpaca_zh: {fraction: 2}}}", "fraction"),
        ("{title: t, sets: {alpaca_zh: {limit: -1}}}", "limit"),
        ("{title: t, sets: {alpaca_zh: {pool: p}}}", "pool"),
        ("{title: t, sets: {alpaca_zh: {}}, pools: {p: {ratio: 1, to: zh}}}", "no set belongs"),
        ("{title: t, sets: {alpaca_zh: {fraction: 0}}}", "nothing to train on"),
        ("{title: t, sets: {alpaca: {}}}", "alpaca_zh"),
        ("{title: t, sets: {alpaca_zh: {fractoin: 1}}}", "fractoin"),
    ],
)
def test_wrong_mixture_is_refused(recipe: str, text: str, message: str) -> None:
    recipe_path("mixtures", "wrong").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_mixture("wrong")


STAND_INS = {
    "smoke": [
        "smoke-full-infinity",
        "smoke-chinese",
        "smoke-chinese-english",
        "smoke-chinese-20-english",
        "smoke-chinese-20-english-mcq",
    ],
    "real-sample": [
        "real-sample-full",
        "real-sample-chinese",
        "real-sample-chinese-english",
        "real-sample-chinese-20-english",
        "real-sample-chinese-20-english-mcq",
    ],
}
"""The five of Table 3 on the sample data and on real rows, in its order."""


def counted(name: str) -> dict[str, Counter[str]]:
    """Languages of what a mixture draws, by set, from a thousand rows and more of each.

    A set of several languages is in both by halves.
    """
    mixture = load_mixture(name)
    letters = {}
    for number, set_name in enumerate(mixture.sets):
        language = load_recipe(ChatSetRecipe, "sft", set_name).language
        both = {"zh": "z", "en": "e"}.get(language, "ze") * (1000 + 37 * number)
        wanted = mixture.sets[set_name].language  # others are left out before the draw
        letters[set_name] = both if wanted == "any" else wanted[0] * both.count(wanted[0])
    drawn = draw_mixture(mixture, letters, 7)
    return {n: Counter(letters[n][i] for i in rows) for n, rows in drawn.items()}


def pools_of(name: str) -> set[str]:
    """Sets of a mixture that belong to a pool."""
    return {n for n, share in load_mixture(name).sets.items() if share.pool}


@pytest.mark.parametrize("world", STAND_INS)
def test_the_stand_ins_of_table_3_differ_as_its_experiments_do(world: str) -> None:
    one, two, three, four, five = (counted(name) for name in STAND_INS[world])
    english = [sum(row["e"] for row in found.values()) for found in (one, two, three, four, five)]
    chinese = [sum(row["z"] for row in found.values()) for found in (one, two, three, four, five)]
    assert english[1] == 0 < english[0], "2 is 1 without its English conversations"
    assert chinese[0] == chinese[1] > 0
    pooled = pools_of(STAND_INS[world][3])
    assert pooled <= set(three) and not pooled & set(two)
    assert sum(four[n]["e"] for n in pooled) == int(sum(chinese[3:4]) / 4 + 0.5)
    assert sum(three[n]["e"] for n in pooled) > 2 * sum(four[n]["e"] for n in pooled)
    # 5 is 4 and English questions: of sets that 4 lacks, or in the other language of one it has.
    assert english[4] - sum(five[n]["e"] for n in pooled) > english[3] - sum(
        four[n]["e"] for n in pooled
    )
    assert sum(five[n]["e"] for n in pooled) == int(chinese[4] / 4 + 0.5)
    new = set(five) - set(four)
    assert new and {n.partition("_")[0] for n in new} <= {"openbookqa", "arc", "logiqa"}


def test_titles_of_stand_ins_promise_no_share_that_the_questions_change() -> None:
    for five in STAND_INS.values():
        last = load_mixture(five[-1]).title
        assert "4:1" in last and "MCQ" in last and "%" not in last
        assert len({load_mixture(name).title for name in five}) == 5


@pytest.mark.parametrize("world", STAND_INS)
def test_stand_ins_are_the_mixtures_that_a_deployment_compares(world: str) -> None:
    name = {"smoke": "smoke-mixtures"}.get(world, world)
    config = load_config(resolve(f"deployments/{name}.yaml"), PipelineConfig)
    assert config.mixtures == STAND_INS[world]
