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
from common.paths import RECIPES
from common.recipes import recipe_path
from corpus.chats import Identity, Mixture, MixtureRow, MixtureSet, Pool, encoded_sets, load_mixture
from corpus.chats.encoded_sets import ReadSet, SetWork, encoded_set
from corpus.chats.mixing import apportion, draw, draw_mixture
from corpus.chats.sft_mixture import build_mixture
from model.tokenizer.folder import load_folder_tokenizer
from model.train.run.folder import MIXTURE_FILE
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
    return build_mixture(load_mixture(name), sets, tmp_path / output / MIXTURE_FILE, **options)


def texts_of(tmp_path: Path, sets: dict[str, ReadSet], output: str = "out") -> list[str]:
    """The conversations of a mixture, as its sets' rows.jsonl have them."""
    rows = {name: list(read_json_lines(one.folder / "rows.jsonl")) for name, one in sets.items()}
    lines = read_json_lines(tmp_path / output / MIXTURE_FILE)
    return [
        json.dumps(rows[line["set"]][line["row"]]["messages"], ensure_ascii=False) for line in lines
    ]


def test_mixture_file_holds_what_the_table_says(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    write_sets(tmp_path / "data")
    rows = {row.set: row for row in mix(tmp_path, recipe, tokenizer)}
    lines = list(read_json_lines(tmp_path / "out" / MIXTURE_FILE))
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
    first, third = ((tmp_path / out / MIXTURE_FILE).read_bytes() for out in ("out", "third"))
    assert first == third


def test_a_damaged_set_is_encoded_again(
    tmp_path: Path, recipe: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    write_sets(tmp_path / "data")
    folder = read_all(tmp_path, recipe, tokenizer)["alpaca_zh"].folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"ids.npy", "rows.jsonl", "set.json", "encoded.json"} <= before.keys()
    for name, content in before.items():
        flipped = bytearray(content)
        if flipped:
            flipped[len(flipped) // 2] ^= 1
        for damaged in (bytes(flipped), content[:-3], b"", None):
            if damaged == content:
                continue  # of an empty file
            if damaged is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(damaged)
            assert not encoded_sets._is_intact(folder), (name, damaged and len(damaged))
        if name == "ids.npy":
            read_all(tmp_path, recipe, tokenizer)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        (folder / name).write_bytes(content)


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
    flipped = bytearray(parts[0].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    parts[0].write_bytes(flipped)
    parts[1].write_bytes(parts[1].read_bytes()[:-50])
    parts[2].write_bytes(b"")
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
