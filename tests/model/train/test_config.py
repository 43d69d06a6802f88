"""Settings that contradict themselves are refused with the value, the place and the remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import from_json, validate
from common.errors import ConfigError
from model.train.checkpoint.retention import CheckpointSettings
from model.train.config import PretrainJob, PretrainSettings
from model.train.health import HealthSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size = 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"learning_rate": 1e-4, "min_learning_rate": 1e-3}, "min_learning_rate = 0.001"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"weights": {"zhihu": -1.0}}, "weights.zhihu = -1.0"),
        ({"decay_fraction": 1.5}, "decay_fraction = 1.5"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps = 10"),
        ({"checkpoints": CheckpointSettings(keep_last=0)}, r"checkpoints\.keep_last = 0"),
        (
            {
                "checkpoints": CheckpointSettings(interval=10, keep_last=3),
                "health": HealthSettings(spike="rollback", rollback_steps=21),
            },
            r"rollback_steps = 21, .* may reach back only 20: .* Keep 4 or more",
        ),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(PretrainSettings(**changes))


def test_a_rollback_may_go_as_far_back_as_checkpoints_are_kept() -> None:
    for spike, steps in (("rollback", 20), ("skip", 21)):
        validate(
            PretrainSettings(
                checkpoints=CheckpointSettings(interval=10, keep_last=3),
                health=HealthSettings(spike=spike, rollback_steps=steps),  # type: ignore[arg-type]
            )
        )


def test_the_papers_settings_are_accepted() -> None:
    settings = PretrainSettings()
    validate(settings)
    settings.check_ranks(8)
    assert settings.global_batch_size * settings.sequence_length == 1_048_576


def test_a_batch_must_split_evenly() -> None:
    with pytest.raises(
        ConfigError, match=r"12 is not a multiple of micro_batch_size x processes = 4"
    ):
        PretrainSettings(global_batch_size=12, micro_batch_size=4).check_ranks(2)


def test_a_job_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    content = {"packed": "p", "output": "o", "settings": {"betas": [0.8, 0.9], "steps": 3}}
    path.write_text(json.dumps(content))
    job = from_json(PretrainJob, path)
    assert job.settings == PretrainSettings(betas=(0.8, 0.9), steps=3)


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"packed": "p", "output": "o", "settings": {"step": 3}}))
    with pytest.raises(ConfigError, match=r"settings: unknown key 'step'"):
        from_json(PretrainJob, path)
    path.write_text(json.dumps({"packed": "p", "settings": {}}))
    with pytest.raises(ConfigError, match="output"):
        from_json(PretrainJob, path)
