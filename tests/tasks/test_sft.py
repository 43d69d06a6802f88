"""The stage `sft`: exact mixtures, early refusals, and a run from native files to a chat model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient

from common.config import validate
from common.errors import ConfigError, DataError
from common.paths import RECIPES
from common.recipes import recipe_path
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from tasks.core.paper.tables import load_paper
from tasks.core.stage import Context, StageResult, StageRun
from tasks.core.tracking.client import default_uri
from tasks.report.data import gather
from tasks.report.format import format_report
from tasks.sft import SftConfig, needed_sets, sft
from tests.corpus.chats.sets import write_mixture, write_sets
from tests.tasks.running import data_sets, result_of, run_stage, stage_run
from tests.tiny_chat import write_model


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return write_mixture(tmp_path, monkeypatch)


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
    assert config.num_steps(samples) == expected


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
    run = run_stage(sft, tmp_path / "sft", config, base=result_of(base), data=data_sets(data))
    assert (run.folder / MODEL_FOLDER / "model.safetensors").exists()
    assert run.counts["conversations"] == 60
    assert run.counts["taken.code_alpaca"] == 12
    assert run.counts["skipped.alpaca_zh"] == 3
    assert run.counts["steps"] == config.num_steps(60) == 8


def test_bad_rows_reach_manifest_mlflow_and_report(
    context: Context, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(tmp_path / "data")
    path = tmp_path / "data" / "wanjuan_mcq" / "part.jsonl"
    lines = ['{"q_main": NaN}', '{"q_main": "q", "option_a": 3}', "{", '{"q_main": ""}']
    path.write_text("\n".join([path.read_text(), *lines]))
    base, data = (
        StageResult(stage="acquire", key=name, folder=tmp_path / name, manifest={})
        for name in ("base", "data")
    )
    write_model(base.folder / MODEL_FOLDER)

    def train(run: StageRun, *_: Any, **__: Any) -> None:
        line = {"step": 1, "time": 0.0, "metrics": {"train/loss": 1.0}}
        (run.folder / METRICS_FILE).write_text(f"{json.dumps(line)}\n")

    monkeypatch.setattr("tasks.sft.train", train)
    done = sft(
        SftConfig(mixture=recipe), context=context, label=recipe, base=base, data=data_sets(data)
    )
    counts = done.manifest["counts"]
    assert (counts["bad_rows"], counts["skipped.wanjuan_mcq"], counts["taken.wanjuan_mcq"]) == (
        3,  # the last one is sound, but cannot be learned from
        4,
        8,
    )
    row = next(r for r in done.manifest["notes"]["mixture"] if r["set"] == "wanjuan_mcq")
    assert (row["bad rows"], row["skipped"]) == (3, 4)
    assert "`q_main` is NaN: 1" in row["reasons"]
    client = MlflowClient(default_uri(context.store))
    path = client.download_artifacts(done.manifest["mlflow"]["stage_run"], "counts.json")
    table = json.loads(Path(path).read_text())
    logged = dict(table["data"])
    assert (logged["bad_rows"], logged["skipped.wanjuan_mcq"]) == (3, 4)
    (tmp_path / "recipes" / "paper").symlink_to(RECIPES / "paper")
    absent = dict.fromkeys(("normalized", "cleaned", "packed", "pretrain", "dpo"))
    text = format_report(
        gather(**absent, sft={recipe: done}, evaluations={}),  # type: ignore[arg-type]
        load_paper(),
        [],
    )
    table = [[cell.strip() for cell in t.split("|")] for t in text.splitlines() if "|" in t]
    header = next(cells for cells in table if "bad rows" in cells)
    cells = next(cells for cells in table if "wanjuan_mcq" in cells)
    assert (cells[header.index("bad rows")], cells[header.index("skipped")]) == ("3", "4")


def test_stage_names_a_set_that_was_not_acquired(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "data" / "alpaca_zh").mkdir(parents=True)
    data = StageResult(stage="acquire", key="d", folder=tmp_path / "data", manifest={})
    base = StageResult(stage="pretrain", key="b", folder=tmp_path, manifest={})
    with pytest.raises(DataError, match="code_alpaca, wanjuan_mcq"):
        run_stage(sft, tmp_path / "sft", SftConfig(mixture=recipe), base=base, data=data_sets(data))
