"""The stage `sft`: exact mixtures, early refusals, and a run from native files to a chat model."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import read_json_lines
from common.paths import RECIPES
from common.recipes import read_yaml, recipe_path
from corpus.chats import Mixture, MixtureFiles, MixtureSet, Pool, build_mixture, load_mixture
from corpus.chats.mixing import apportion, draw, draw_mixture
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import StageResult
from tasks.sft import SftConfig, needed_sets, sft
from tests.tasks.running import result_of, run_stage, stage_run
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


def write_sets(folder: Path) -> Path:
    """Native files of three sets: 40 Chinese rows, 30 English ones, 8 questions; some bad."""
    rows: dict[str, list[dict[str, Any]]] = {
        "alpaca_zh/zh-data.json": [
            {"instruction": f"问题{n}", "input": "", "output": f"回答{n}"} for n in range(40)
        ]
        + [{"instruction": "空", "input": "", "output": ""}] * 3,
        "code_alpaca/code_alpaca.json": [
            {"instruction": f"ask {n}", "input": "", "output": f"answer {n}"} for n in range(30)
        ],
        "wanjuan_mcq/part.jsonl": [
            {
                "q_type": "单选题",
                "q_main": f"第{n}题？",
                "option_a": "甲",
                "option_b": "乙",
                "std_ans": "AB"[n % 2],
                "answer_detail": "因为别的答案都不符合题目的意思。",
            }
            for n in range(8)
        ],
    }
    for name, content in rows.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        lines = (json.dumps(row, ensure_ascii=False) for row in content)
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mixture `trial`: all Chinese, English 1:4, and letters only of the questions."""
    recipes = tmp_path / "recipes"
    (recipes / "mixtures").mkdir(parents=True)
    (recipes / "sft").symlink_to(RECIPES / "sft")
    (recipes / "mixtures" / "trial.yaml").write_text(
        "{title: Trial, sets: {alpaca_zh: {}, code_alpaca: {pool: english},"
        " wanjuan_mcq: {styles: [letter]}}, pools: {english: {ratio: 0.25, to: zh}}}"
    )
    monkeypatch.setattr("common.recipes.RECIPES", recipes)
    return "trial"


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


def test_contradictions_are_refused_before_anything_starts() -> None:
    good = SftConfig(mixture="smoke-chinese", global_batch_size=32, micro_batch_size=8)
    validate(good, "sft")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"mixture": ""}, "mixture is empty"),
        ({"mixture": "smoke-chinesee"}, "smoke-chinese"),
        ({"micro_batch_size": 5}, "global_batch_size = 32 is not a multiple"),
        ({"num_processes": 3}, "not a multiple"),
        ({"epochs": 0}, "epochs = 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"warmup_fraction": 1.0}, "warmup_fraction"),
    ]
    for change, message in bad:
        with pytest.raises(ConfigError, match=message):
            validate(replace(good, **change), "sft")


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


@pytest.mark.parametrize(("gpus", "expected"), [(0, 1), (1, 1), (4, 4), (8, 4), (3, 2)])
def test_auto_takes_as_many_devices_as_split_the_batch(
    monkeypatch: pytest.MonkeyPatch, gpus: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    config = SftConfig(mixture="smoke-chinese", global_batch_size=32, micro_batch_size=8)
    assert config.ranks() == expected
    validate(config, "sft")


@pytest.mark.parametrize(
    ("samples", "epochs", "expected"), [(256, 4, 4), (257, 4, 8), (10, 4, 4), (1000, 1.5, 6)]
)
def test_steps_are_counted_as_the_trainer_does(samples: int, epochs: float, expected: int) -> None:
    config = SftConfig(mixture="smoke-chinese", epochs=epochs, micro_batch_size=16)
    assert config.num_steps(samples, 2) == expected


def test_key_changes_with_the_recipes_it_uses(recipe: str) -> None:
    config = SftConfig(mixture=recipe)
    before = config.fingerprint()
    assert before == SftConfig(mixture=recipe, epochs=1).fingerprint()
    path = recipe_path("mixtures", recipe)
    path.write_text(path.read_text().replace("0.25", "0.5"))
    assert config.fingerprint() != before
    assert needed_sets(config) == ["alpaca_zh", "code_alpaca", "wanjuan_mcq"]


@pytest.mark.slow
def test_stage_trains_on_the_mixture(tmp_path: Path, recipe: str) -> None:
    write_sets(tmp_path / "data")
    base = stage_run(tmp_path / "base")
    write_model(base.folder / MODEL_FOLDER)
    data = StageResult(stage="acquire", key="d", folder=tmp_path / "data", manifest={})
    config = SftConfig(
        mixture=recipe, epochs=2, global_batch_size=16, micro_batch_size=16, log_interval=1
    )
    run = run_stage(sft, tmp_path / "sft", config, base=result_of(base), data=data)
    assert (run.folder / MODEL_FOLDER / "model.safetensors").exists()
    assert run.counts["conversations"] == 60
    assert run.counts["taken.code_alpaca"] == 12
    assert run.counts["skipped.alpaca_zh"] == 3
    assert run.counts["steps"] == config.num_steps(60, 1) == 8


def test_stage_names_a_set_that_was_not_acquired(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "data" / "alpaca_zh").mkdir(parents=True)
    data = StageResult(stage="acquire", key="d", folder=tmp_path / "data", manifest={})
    base = StageResult(stage="pretrain", key="b", folder=tmp_path, manifest={})
    with pytest.raises(DataError, match="code_alpaca, wanjuan_mcq"):
        run_stage(sft, tmp_path / "sft", SftConfig(mixture=recipe), base=base, data=data)
