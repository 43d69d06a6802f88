"""The stage's choices: processes, early refusals, the numbers it reports."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.config import validate
from common.errors import ConfigError, DataError
from model.train.checkpoint.retention import CheckpointSettings
from model.train.model_settings import model_config
from model.train.run.folder import METRICS_FILE
from tasks.core.stage import stage_key
from tasks.pretrain import PretrainConfig, summary

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


def config(num: object = "auto", **changes: object) -> PretrainConfig:
    values = {"model": SMALL, "global_batch_size": 16, "micro_batch_size": 4, **changes}
    return PretrainConfig(**values, num_processes=num)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpus", "micro_batch_size", "expected"),
    [(0, 4, 2), (0, 16, 1), (1, 4, 1), (4, 4, 4), (8, 4, 4), (8, 2, 8), (3, 4, 2)],
)
def test_auto_takes_as_many_devices_as_split_the_batch(
    monkeypatch: pytest.MonkeyPatch, gpus: int, micro_batch_size: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    automatic = config(micro_batch_size=micro_batch_size)
    assert automatic.ranks_per_node() == expected
    validate(automatic, "pretrain")


def test_contradictions_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="global_batch_size = 16 is not a multiple"):
        validate(config(3), "pretrain")
    with pytest.raises(ConfigError, match="num_processes = 0"):
        validate(config(0), "pretrain")
    with pytest.raises(ConfigError, match="micro_batch_size x processes = 5 x 1"):
        validate(config(micro_batch_size=5), "pretrain")
    with pytest.raises(ConfigError, match="no config field 'layers'"):
        validate(config(model={"layers": 3}), "pretrain")
    with pytest.raises(ConfigError, match="hidden_size 33 is not a multiple"):
        validate(config(model={**SMALL, "hidden_size": 33}), "pretrain")
    with pytest.raises(DataError, match="no folder of a Transformers model"):
        validate(config(model="no/such/folder"), "pretrain")


def test_summary_reads_the_last_values_and_the_usual_speed(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    lines = [
        {"train/loss": 3.0, "data/tokens": 10.0, "perf/tokens_per_second": 1.0},
        {"train/loss": 2.0, "data/tokens": 20.0, "perf/tokens_per_second": 9.0},
        {"train/loss": 1.0, "data/tokens": 30.0, "perf/tokens_per_second": 8.0},
        {"validation/loss": 1.5},
    ]
    path.write_text(
        "".join(
            json.dumps({"step": i, "time": 0, "metrics": m}) + "\n" for i, m in enumerate(lines)
        )
    )
    assert summary(path) == {
        "train_loss": 1.0,
        "validation_loss": 1.5,
        "tokens": 30.0,
        "tokens_per_second": 8.0,
    }


def test_how_many_processes_and_how_large_their_share_is_no_other_training() -> None:
    """So an interrupted one goes on with other numbers, and a finished one is not done again."""

    def key(changed: PretrainConfig) -> str:
        return stage_key("pretrain", 1, changed, {})

    assert key(config(2)) == key(config(1)) == key(config(1, micro_batch_size=16, log_interval=7))
    assert key(config(2)) != key(config(2, global_batch_size=32))


def test_another_model_under_the_same_path_is_another_training(tmp_path: Path) -> None:
    def key() -> str:
        return stage_key("pretrain", 1, config(model=str(tmp_path)), {})

    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    first = key()
    weights.write_bytes(b"WEIGHTS")
    assert key() != first
    weights.write_bytes(b"weights")
    (tmp_path / "README.md").write_text("not read")
    assert key() == first


def test_the_disk_that_checkpoints_take_is_known_beforehand() -> None:
    """In sizes of the fp32 weights: a checkpoint takes three, an export one, and so does model/."""

    def needed(steps: int = 0, **saved: object) -> float:
        values = {"interval": 10, "keep_last": 3, "keep_best": 0, "export": False, **saved}
        settings = CheckpointSettings(**values)  # type: ignore[arg-type]
        model = {**SMALL, "num_key_value_heads": 2, "vocab_size": 64}
        changed = config(model=model, steps=steps, warmup_steps=0, checkpoints=settings)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(model_config(changed.settings, {}))
        return changed.bytes_needed() / (4 * sum(p.numel() for p in network.parameters()))

    # The last three, an extra one, and the one that is being written.
    assert needed() == 3 * 5 + 1
    assert needed(keep_last=4) == 3 * 6 + 1
    assert needed(keep_best=2) == 3 * 7 + 1
    assert needed(steps=100, keep_every=20) == 3 * 10 + 1
    assert needed(steps=0, keep_every=20) == 3 * 5 + 1, "unknown without the data"
    # Those kept for good are exported, and one more while another becomes the best.
    assert needed(steps=100, keep_every=20, keep_best=1, export=True) == 3 * 11 + 1 + 7
