"""Fine-tuning of a mixture of experts: its router's loss is logged, and ends with the training."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from model.tokenizer.folder import save_digest
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import read_metrics
from tests.model.train.architectures.shapes import SMALL
from tests.model.train.finetune import recording
from tests.tiny_chat import byte_tokenizer


@pytest.fixture(scope="module")
def mixture_of_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(0)
    config = CONFIG_MAPPING["qwen3_moe"](
        **SMALL["qwen3_moe"], vocab_size=264, max_position_embeddings=512
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    save_digest(tokenizer, folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_router_loss_is_logged_and_left_out_of_the_published_model(
    mixture_of_experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("model.train.distributed.signals.StopFlag.install", lambda self: self)
    torch.set_num_threads(1)
    recording.make_job(method, mixture_of_experts, tmp_path, epochs=1)
    assert recording.train(method, tmp_path) == 0
    lines = read_metrics(tmp_path / METRICS_FILE)
    steps = [line for line in lines if "train/loss" in line["metrics"]]
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in (
        step["metrics"] for step in steps
    ):  # two of four experts a token: 2 where all get as much, 4 where two get all
        assert 1.9 < line["train/router_loss"] < 4
        assert math.isfinite(line["train/loss"])
    saved = json.loads((tmp_path / MODEL_FOLDER / "config.json").read_text())
    assert not saved.get("output_router_logits", False)
    assert saved["router_aux_loss_coef"] == 0.02
