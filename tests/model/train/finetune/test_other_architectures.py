"""A model of another architecture is fine-tuned and aligned like one of Steel's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from model.train.run.folder import MODEL_FOLDER
from tests.model.train.finetune import gradients
from tests.model.train.finetune.recording import curve, make_job, train
from tests.tiny_chat import byte_tokenizer, conversations, pairs

pytestmark = pytest.mark.usefixtures("in_this_process")


def write_qwen2(folder: Path) -> Path:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_qwen2_through_sft_and_dpo(tmp_path: Path) -> None:
    base = write_qwen2(tmp_path / "base")
    make_job("sft", base, tmp_path / "sft", conversations(12))
    assert train("sft", tmp_path / "sft") == 0
    tuned = tmp_path / "sft" / MODEL_FOLDER
    make_job("dpo", tuned, tmp_path / "dpo", pairs(12), learning_rate=1e-3)
    assert train("dpo", tmp_path / "dpo") == 0
    for name in ("sft", "dpo"):
        lines = [line for _, line in curve(tmp_path / name) if "train/loss" in line]
        assert lines[-1]["train/loss"] < lines[0]["train/loss"], name
    assert lines[0]["train/loss"] == pytest.approx(0.6931, abs=1e-4)
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / MODEL_FOLDER)
    assert network.config.model_type == "qwen2"
    assert network.lm_head.weight is network.model.embed_tokens.weight


@pytest.mark.parametrize("packing", [False, True])
def test_its_steps_are_those_of_a_plain_loop(tmp_path: Path, packing: bool) -> None:
    base, rows = write_qwen2(tmp_path / "base"), conversations(9)
    output = tmp_path / "run"
    make_job("sft", base, output, rows, **gradients.SETTINGS, packing=packing, max_length=200)
    assert gradients.train("sft", output) == 0
    lines = dict(curve(output))
    for step, loss, wanted in gradients.sft_steps(base, output, rows, 200):
        found = gradients.saved_gradients(output, step)
        assert lines[step]["train/loss"] == pytest.approx(loss, rel=2e-5), step
        norm = torch.stack([g.norm() for g in wanted.values()]).norm().item()
        for name, gradient in wanted.items():
            assert (found[name] - gradient).norm().item() <= 1e-4 * norm, (step, name)
