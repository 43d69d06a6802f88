"""DPO: policy and reference start alike, and only the policy moves."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from common.config import from_json
from common.errors import DataError
from model.entry import dpo
from model.train.distributed.signals import StopFlag
from model.train.finetune.checkpoints import complete_checkpoints
from model.train.finetune.config import DpoJob, DpoSettings
from model.train.finetune.fit import fit
from model.train.finetune.recorder import Recorder
from model.train.finetune.trainer import make_trainer
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import JsonlSink, read_metrics
from tests.tiny_chat import byte_tokenizer, pairs, write_lines, write_model


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def make_job(policy: Path, tmp_path: Path) -> Callable[..., DpoJob]:
    def make(rows: list[dict[str, Any]] | None = None, **settings: Any) -> DpoJob:
        data = write_lines(tmp_path / "mixture.jsonl", pairs(8) if rows is None else rows)
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return DpoJob(
            settings=DpoSettings(
                **{
                    "micro_batch_size": 4,
                    "global_batch_size": 8,
                    "max_length": 256,
                    "learning_rate": 1e-3,
                    "warmup_fraction": 0.0,
                    "log_interval": 1,
                    "epochs": 6,
                    **settings,
                }
            ),
            model=str(policy),
            data=str(data),
            output=str(tmp_path),
            scratch=str(tmp_path / "scratch"),
        )

    return make


def build(job: DpoJob) -> Any:
    recorder = Recorder(JsonlSink(Path(job.output) / METRICS_FILE), StopFlag())
    return make_trainer(job, dpo.build, recorder)


def log_probability(network: Any, prompt: str, answer: str) -> torch.Tensor:
    """log P(answer<|im_end|>\\n | prompt), ChatML by hand and one sequence at a time."""
    tokenizer = byte_tokenizer()
    head = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    context = tokenizer(head, add_special_tokens=False)["input_ids"]
    reply = tokenizer(f"{answer}<|im_end|>\n", add_special_tokens=False)["input_ids"]
    logits = network(torch.tensor([context + reply])).logits[0, len(context) - 1 : -1]
    picked = logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None])
    return picked.sum()


def test_the_first_loss_is_ln_2_and_only_the_policy_moves(make_job: Callable[..., DpoJob]) -> None:
    job = make_job()
    before = load_file(Path(job.model) / "model.safetensors")
    trainer = build(job)
    trainer.train()
    metrics = [line["metrics"] for line in read_metrics(Path(job.output) / METRICS_FILE)]
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics[0]["train/reward_margin"] == pytest.approx(0, abs=1e-6)
    assert metrics[-1]["train/loss"] < math.log(2) - 0.01
    assert metrics[-1]["train/preference_accuracy"] == 1
    reference = trainer.accelerator.unwrap_model(trainer.ref_model).state_dict()
    moved = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    assert all(torch.equal(reference[name], tensor) for name, tensor in before.items())
    assert not any(
        torch.equal(moved[name], tensor) for name, tensor in before.items() if "proj" in name
    )


def test_loss_is_the_papers_formula(make_job: Callable[..., DpoJob], tmp_path: Path) -> None:
    """-log sigmoid(beta ((log pi/pi_ref)(chosen) - (log pi/pi_ref)(rejected))), a mean of pairs."""
    rows = pairs(4)
    job = make_job(rows, beta=0.3)
    reference = AutoModelForCausalLM.from_pretrained(job.model).eval()
    other = write_model(tmp_path / "other", seed=1)
    policy = AutoModelForCausalLM.from_pretrained(other).eval()
    trainer = build(job)
    trainer.accelerator.unwrap_model(trainer.model).load_state_dict(policy.state_dict())
    (batch,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, batch).item()
    expected = []
    for row in rows:
        prompt, chosen, rejected = (
            row[key][0]["content"] for key in ("prompt", "chosen", "rejected")
        )
        with torch.no_grad():
            gaps = [
                log_probability(net, prompt, chosen) - log_probability(net, prompt, rejected)
                for net in (policy, reference)
            ]
        expected.append(-functional.logsigmoid(0.3 * (gaps[0] - gaps[1])).item())
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_the_entry_publishes_the_policy(
    make_job: Callable[..., DpoJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopFlag, "install", lambda self: self)
    job = make_job(epochs=2, global_batch_size=4)
    config = Path(job.output) / "dpo.json"
    config.write_text(json.dumps(asdict(job)))
    assert fit(from_json(DpoJob, config), dpo.build) == 0
    result = Path(job.output) / MODEL_FOLDER
    published = load_file(result / "model.safetensors")
    (newest,) = complete_checkpoints(Path(job.scratch))
    last = load_file(newest / "model.safetensors")
    assert all(torch.equal(last[name], tensor) for name, tensor in published.items())
    assert (result / "chat_template.jinja").read_text() == byte_tokenizer().chat_template


def test_pairs_without_room_for_an_answer_are_refused(make_job: Callable[..., DpoJob]) -> None:
    with pytest.raises(DataError, match="max_length = 8"):
        build(make_job(max_length=8))
