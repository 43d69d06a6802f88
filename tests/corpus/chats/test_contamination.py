"""Conversations and pairs that contain benchmark questions: dropped, flagged, listed."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.files import read_json_lines
from common.paths import RECIPES
from corpus.chats import Identity, MixtureRow, load_mixture
from corpus.chats.sft_mixture import build_mixture
from corpus.decontaminate import ContaminationConfig, match_row
from model.train.run.folder import MIXTURE_FILE
from tasks.core.finetune import report_mixture
from tasks.core.stage import StageResult, StageRun
from tasks.dpo import DpoConfig, write_candidates
from tasks.sft import read_sets
from tests.corpus.decontaminate.planted import (
    FOUND,
    INDEX,
    POEM,
    SHORT,
    asked,
    wide,
    write_benchmarks,
)
from tests.tasks.running import stage_run
from tests.tiny_chat import write_model


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


def acquired(tmp_path: Path, name: str) -> tuple[dict[str, StageResult], dict[str, StageResult]]:
    """The set and the benchmarks in tmp_path, as `acquire` would have brought them in."""

    def result(folder: str) -> StageResult:
        return StageResult(stage="acquire", key=folder, folder=tmp_path / folder, manifest={})

    benchmarks = [path.name for path in (tmp_path / "benchmarks").iterdir()]
    return {name: result("data")}, {one: result("benchmarks") for one in benchmarks}


def drawn(
    run: StageRun, tmp_path: Path, recipe: str, contamination: ContaminationConfig
) -> MixtureRow:
    """Draw the mixture as the stage does, and report it; returns its line."""
    data, benchmarks = acquired(tmp_path, "alpaca_zh")
    sets, finder = read_sets(
        run,
        ["alpaca_zh"],
        model=write_model(tmp_path / "model"),
        data=data,
        benchmarks=benchmarks,
        contamination=contamination,
        identity=Identity(),
        remedy="",
    )
    drop = contamination.action == "drop"
    output = run.folder / MIXTURE_FILE
    (row,) = build_mixture(
        load_mixture(recipe), sets, output, seed=1, max_length=2048, drop_contaminated=drop
    )
    report_mixture(run, "mixture trial", "conversations", [row], finder)
    return row


def test_the_action_on_what_is_found_makes_no_other_set(tmp_path: Path, recipe: str) -> None:
    write_chats(tmp_path / "data")
    write_benchmarks(tmp_path / "benchmarks", FOUND)
    run = stage_run(tmp_path / "sft")
    for action in ("drop", "flag"):
        drawn(run, tmp_path, recipe, ContaminationConfig(action=action))
    assert len([p for p in (run.cache / "sft").iterdir() if p.is_dir()]) == 1
    drawn(run, tmp_path, recipe, ContaminationConfig(action="off", ngram=9))
    drawn(run, tmp_path, recipe, ContaminationConfig(action="off"))
    assert len([p for p in (run.cache / "sft").iterdir() if p.is_dir()]) == 2


@pytest.mark.parametrize("action", ["drop", "flag", "off"])
def test_conversations_with_questions_are_dropped_or_flagged(
    tmp_path: Path, recipe: str, action: Any
) -> None:
    write_chats(tmp_path / "data")
    write_benchmarks(tmp_path / "benchmarks", FOUND)
    run = stage_run(tmp_path / "sft")
    row = drawn(run, tmp_path, recipe, ContaminationConfig(action=action))
    assert row.taken == len(list(read_json_lines(run.folder / MIXTURE_FILE)))
    if action == "off":
        assert (row.taken, row.contaminated) == (4, 0)
        assert not (run.folder / "contamination.jsonl").read_bytes()
        assert run.notes["contamination"] == {"action": "off"}
        return
    assert (row.taken, row.contaminated) == ((2 if action == "drop" else 4), 2)
    lines = list(read_json_lines(run.folder / "contamination.jsonl"))
    assert [(line["id"], line["question_id"]) for line in lines] == [
        ("alpaca_zh/zh-data.json#2", "poetry/test/0"),
        ("alpaca_zh/zh-data.json#3", "physics/val/0"),
    ]
    columns = set(match_row(INDEX.find(asked(POEM))[0], "x"))
    assert all(set(line) == columns | {"drawn"} for line in lines)
    assert {line["drawn"] for line in lines} == {action == "flag"}
    assert run.counts["contaminated"] == run.counts["contaminated.alpaca_zh"] == 2
    assert run.notes["contamination"]["index"]["questions"] == 3
    _, table = run.track.tables.values()  # type: ignore[attr-defined]
    assert {row["question"] for row in table} == {"cmmlu/poetry/test/0", "ceval/physics/val/0"}


def test_bad_rows_of_benchmarks_are_warned_of_with_their_numbers(
    tmp_path: Path, recipe: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_chats(tmp_path / "data")
    write_benchmarks(tmp_path / "benchmarks", FOUND)
    for name, line in (
        ("ceval/val/physics_val.csv", "9,q,1,2,3,4,E"),
        ("mmlu/test/anatomy_test.csv", "q"),
    ):
        with (tmp_path / "benchmarks" / name).open("a") as file:
            file.write(f"{line}\n" * 2)
    run = stage_run(tmp_path / "sft")
    drawn(run, tmp_path, recipe, ContaminationConfig())
    assert run.notes["contamination"]["index"]["bad_rows"] == {"ceval": 2, "mmlu": 2}
    (warned,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "2 of ceval: " in warned
    assert "2 of mmlu: " in warned
    assert "physics_val.csv, line 3: the answer is 'E'" in warned


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
    data, benchmarks = acquired(tmp_path, "pairs")
    config = DpoConfig(sets=("pairs",), chinese_per_english=0)
    assert write_candidates(run, config, data, benchmarks) == 5
    assert run.counts["contaminated.pairs"] == 1
    (line,) = read_json_lines(run.folder / "contamination.jsonl")
    assert (line["id"], line["question_id"]) == ("pairs/p.jsonl#6", "poetry/test/0")
