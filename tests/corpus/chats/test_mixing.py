"""Mixtures: exact ratios, the same draw every time, and nothing lost by an interruption."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import read_json_lines
from common.paths import RECIPES
from common.recipes import read_yaml, recipe_path
from corpus.chats import Mixture, MixtureFiles, MixtureSet, Pool, build_mixture, load_mixture
from corpus.chats.mixing import apportion, balance, draw, draw_mixture
from tasks.sft import SftConfig
from tests.corpus.chats.sets import write_mixture, write_sets

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


def mix(tmp_path: Path, name: str, output: str = "mixture.jsonl", scratch: str = "scratch") -> Any:
    (tmp_path / scratch).mkdir(exist_ok=True)
    return build_mixture(
        load_mixture(name),
        MixtureFiles(
            data=tmp_path / "data",
            output=tmp_path / output,
            quarantine=tmp_path / "quarantine",
            scratch=tmp_path / scratch,
        ),
        seed=7,
    )


def test_mixture_file_holds_what_the_table_says(tmp_path: Path, recipe: str) -> None:
    write_sets(tmp_path / "data")
    rows = {row.set: row for row in mix(tmp_path, recipe)}
    lines = list(read_json_lines(tmp_path / "mixture.jsonl"))
    assert Counter(line["set"] for line in lines) == {
        "alpaca_zh": 40,
        "wanjuan_mcq": 8,
        "code_alpaca": 12,
    }
    assert {name: row.taken for name, row in rows.items()} == Counter(x["set"] for x in lines)
    assert Counter(line["language"] for line in lines) == {"zh": 48, "en": 12}
    assert rows["alpaca_zh"].skipped == {"empty answer": 3}
    assert (rows["wanjuan_mcq"].usable, rows["wanjuan_mcq"].other) == (8, 8)
    assert len(list(read_json_lines(tmp_path / "quarantine" / "alpaca_zh.jsonl"))) == 3
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == ["alpaca_zh.jsonl"]
    texts = [json.dumps(line["messages"], ensure_ascii=False) for line in lines]
    assert len(set(texts)) == len(texts), "a conversation was drawn twice"


def test_mixture_is_the_same_after_an_interruption(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(tmp_path / "data")
    mix(tmp_path, recipe)
    with monkeypatch.context() as patch:
        patch.setattr("corpus.chats.mixing.draw_mixture", None)  # dies after reading the sets
        with pytest.raises(TypeError):
            mix(tmp_path, recipe, "second.jsonl", "scratch-2")
    assert not (tmp_path / "second.jsonl").exists()
    for path in (tmp_path / "data").rglob("*.json*"):
        path.unlink()  # proves that sets which were read are not read again
    mix(tmp_path, recipe, "second.jsonl", "scratch-2")
    assert (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "mixture.jsonl").read_bytes()


def test_malformed_rows_are_counted_or_refused_by_name(tmp_path: Path, recipe: str) -> None:
    data = write_sets(tmp_path / "data")
    path = data / "code_alpaca" / "code_alpaca.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0] | {"output": float("nan")}, None]))

    def built(on_bad_row: Any) -> dict[str, Any]:
        files = MixtureFiles(
            data=data,
            output=tmp_path / on_bad_row / "mixture.jsonl",
            quarantine=tmp_path / on_bad_row / "quarantine",
            scratch=tmp_path / on_bad_row,
            on_bad_row=on_bad_row,
        )
        files.scratch.mkdir()
        made = build_mixture(load_mixture(recipe), files, seed=1)
        return {row.set: dict(row.skipped) for row in made}

    skipped = built("skip")
    assert skipped["code_alpaca"] == {"`output` is NaN": 1, "not an object": 1}
    assert skipped["alpaca_zh"] == {"empty answer": 3}  # sound, only nothing to learn from
    with pytest.raises(DataError) as error:
        built("fail")
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


@given(
    chinese=st.integers(0, 400),
    english=st.integers(0, 400),
    ratio=st.integers(1, 6),
    limit=st.none() | st.integers(7, 300),
)
def test_the_ratio_is_exact_and_as_much_as_possible_is_taken(
    chinese: int, english: int, ratio: int, limit: int | None
) -> None:
    assume(english > 0 and chinese >= ratio)
    counts = balance(chinese, english, ratio, limit)
    assert counts["zh"] == ratio * counts["en"]
    assert 0 < counts["en"] <= english
    assert counts["zh"] <= chinese
    more = counts["en"] + 1
    possible = more <= english and ratio * more <= chinese
    assert not (possible and (limit is None or more * (ratio + 1) <= limit))


@given(chinese=st.integers(0, 99), english=st.integers(0, 99), limit=st.none() | st.integers(1, 99))
def test_without_a_ratio_all_is_taken_up_to_the_limit(
    chinese: int, english: int, limit: int | None
) -> None:
    counts = balance(chinese, english, 0, limit)
    total = chinese + english if limit is None else min(limit, chinese + english)
    assert sum(counts.values()) == total
    assert counts["zh"] <= chinese
    assert counts["en"] <= english


def test_a_missing_language_is_named() -> None:
    with pytest.raises(DataError, match="3 Chinese and 9 English pairs cannot be mixed 4:1"):
        balance(3, 9, 4, None)
