"""The stage `sft`: exact mixtures, early refusals, and a run from native files to a chat model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import validate
from common.errors import ConfigError, DataError
from common.recipes import recipe_path
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import StageResult
from tasks.sft import SftConfig, needed_sets, sft
from tests.corpus.chats.sets import write_mixture, write_sets
from tests.tasks.running import result_of, run_stage, stage_run
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
