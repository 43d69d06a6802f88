"""The loop against plain PyTorch, and what it does when numbers go wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import ConfigError
from model.data import PackedDataset, PackedManifest
from model.data.dataset import IGNORED
from model.soft_moe import Experts, SoftMoE
from model.train.callbacks.speed import flops_per_token
from model.train.checkpoint.export import write_model
from model.train.checkpoint.folders import complete_checkpoints
from model.train.health import NonFiniteError
from model.train.loss import Losses
from model.train.optim.schedule import learning_rate
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.length import TrainingLength
from model.train.run.metrics import last_value, read_metrics
from model.train.run.plan import sample_order
from model.train.trainer import Trainer
from tests.model.train import ranks

MakeRun = Callable[..., Trainer]
QWEN = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}


@pytest.mark.parametrize("model", [ranks.TINY, QWEN], ids=["steel", "qwen2"])
def test_equals_a_plain_loop(make_run: MakeRun, packed: Path, model: dict[str, Any]) -> None:
    """Losses and weights after six steps, against torch's AdamW, clip and cross entropy."""
    run = make_run(model=model, steps=6, max_grad_norm=0.5)
    reference = AutoModelForCausalLM.from_config(run.model.config, dtype=torch.float32)
    reference.load_state_dict(run.model.state_dict())
    run.fit()

    settings = run.settings
    order = sample_order(settings, PackedManifest.read(packed / "shards"))
    dataset = PackedDataset(packed / "shards", order)
    matrices = [p for p in reference.parameters() if p.ndim > 1]
    vectors = [p for p in reference.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(6):
        rows = torch.stack([dataset[step * 8 + i]["tokens"] for i in range(8)])
        ids = rows[:, :-1]
        targets = rows[:, 1:].masked_fill(ids == ranks.END, IGNORED)
        positions = ranks.positions(ids)
        logits = reference(input_ids=ids, position_ids=positions, use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, TrainingLength(initial_steps=6))
        optimizer.step()
        optimizer.zero_grad()
        measured = ranks.read_run(run.checkpoints.folder.parent)[step + 1]
        assert measured["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert measured["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    for (name, found), expected in zip(
        run.model.named_parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_loss_by_source_adds_up(make_run: MakeRun) -> None:
    run = make_run(steps=1, global_batch_size=16)
    batches = run.data.loader.step(0)
    sources = torch.cat([batch["source"] for batch in batches])
    targets = torch.cat([(batch["labels"] != IGNORED).sum(dim=1) for batch in batches])
    number = torch.bincount(sources, weights=targets.double(), minlength=2)
    assert number.min() > 0 and number.sum() < 16 * 32
    run.fit()
    measured = ranks.read_run(run.checkpoints.folder.parent)[1]
    mean = measured["train/loss_alpha"] * number[0] + measured["train/loss_beta"] * number[1]
    assert measured["train/loss"] == pytest.approx(mean.item() / number.sum().item())
    assert measured["train/targets"] == number.sum()
    assert measured["data/tokens"] == 16 * 32


class Poison:
    """Model with loss that loses the loss or the gradient of the sample with these tokens."""

    def __init__(self, run: Trainer, tokens: Tensor, *, gradient_only: bool) -> None:
        self.forward, self.tokens = run.train_step.model_with_loss.forward, tokens
        self.gradient_only = gradient_only

    def __call__(self, input_ids: Tensor, labels: Tensor, **documents: Any) -> Losses:
        losses = self.forward(input_ids, labels, **documents)
        hit = (input_ids == self.tokens).all(dim=1)
        if not hit.any():
            return losses
        total = losses.total
        if self.gradient_only:  # finite, but d sqrt(0) is infinite
            return losses._replace(total=total + (total * 0).sqrt() * 0)
        return losses._replace(
            total=total * float("nan"), by_sample=losses.by_sample.masked_fill(hit, float("nan"))
        )


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_step_that_is_not_finite_leaves_the_weights_alone(
    make_run: MakeRun, gradient_only: bool
) -> None:
    run = make_run(steps=6)
    trainer = run
    batch = trainer.data.loader.step(3)[2]
    bad = int(batch["samples"][1])
    poison = Poison(run, batch["input_ids"][1], gradient_only=gradient_only)
    trainer.train_step.model_with_loss.forward = poison  # type: ignore[method-assign]
    where = r"samples 24 to 31" if gradient_only else rf"samples \[{bad}\]"
    with pytest.raises(NonFiniteError, match=rf"step 4 \(batch 3\) is not finite.*{where}"):
        trainer.fit()
    after = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    [saved] = complete_checkpoints(trainer.checkpoints.folder)
    assert saved.name == "step-00000003"
    # The run that stops after three steps of the same schedule has these very weights.
    clean = make_run("clean", steps=6)
    for _ in range(3):
        clean._step()
    for name, tensor in clean.model.state_dict().items():
        assert torch.equal(after[name], tensor), name


def test_validation_is_the_loss_on_held_out_samples(make_run: MakeRun, packed: Path) -> None:
    changes = {"steps": 3, "micro_batch_size": 8, "validation_samples": 11}
    run = make_run(**changes)
    run.fit()
    order = sample_order(run.settings, PackedManifest.read(packed / "shards"))
    held_out = PackedDataset(packed / "shards", order, "validation")
    total, num_targets = 0.0, 0
    with torch.no_grad():
        for index in range(11):
            tokens = held_out[index]["tokens"][None]
            ids = tokens[:, :-1]
            targets = tokens[:, 1:].masked_fill(ids == ranks.END, IGNORED)
            logits = run.model(
                input_ids=ids, position_ids=ranks.positions(ids), use_cache=False
            ).logits
            total += functional.cross_entropy(logits[0], targets[0], reduction="sum").item()
            num_targets += int((targets != IGNORED).sum())
    metrics = run.checkpoints.folder.parent / METRICS_FILE
    assert last_value(metrics, "validation/loss") == pytest.approx(total / num_targets)
    assert last_value(metrics, "validation/targets") == num_targets < 11 * 32
    assert run.train_step.model_with_loss.training


def test_validation_that_is_asked_for_must_be_there(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A source may have too little held out, and says so; all together may not."""
    little = ranks.write_packed(tmp_path / "little", tokens=4_000, validation_fraction=0.03)
    tokens = PackedManifest.read(little / "shards").tokens_by_source("validation")
    assert max(tokens.values()) > 0
    with pytest.raises(ConfigError, match=r"eval_interval = 3, but no block .* 0.03 held out \d"):
        make_run(data=little, steps=2, sequence_length=max(tokens.values()))
    run = make_run(data=little, steps=2, sequence_length=max(tokens.values()), eval_interval=0)
    run.fit()
    assert "has no validation loss of its own" in caplog.text
    assert last_value(run.checkpoints.folder.parent / METRICS_FILE, "validation/loss") is None
    assert (run.checkpoints.folder / complete_checkpoints(run.checkpoints.folder)[-1]).is_dir()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_export_is_the_trained_model(
    make_run: MakeRun, packed: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    run = make_run(
        steps=2,
        precision=precision,
        activation_checkpointing="selective" if precision == "bf16" else "none",
    )
    run.fit()
    folder = tmp_path / MODEL_FOLDER
    write_model(complete_checkpoints(run.checkpoints.folder)[-1], folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == dtype
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["SteelForCausalLM"]
    assert len(AutoTokenizer.from_pretrained(folder)) == ranks.VOCABULARY
    batch = run.data.loader.step(0)[0]
    positions = ranks.positions(batch["input_ids"])
    logits = loaded(input_ids=batch["input_ids"], position_ids=positions, use_cache=False).logits
    found = functional.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten().long())
    expected = run.train_step.model_with_loss(batch["input_ids"], batch["labels"], positions)
    torch.testing.assert_close(
        found, expected.mean(), rtol=1e-5 if precision == "fp32" else 1e-2, atol=1e-5
    )
    # And it is a start for another run.
    again = make_run("again", model=str(folder), steps=1)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name].float()), name


@pytest.mark.parametrize("recomputed", ["none", "full"])
def test_routing_sees_its_weights_in_fp32_in_a_bf16_training(
    make_run: MakeRun, recomputed: str
) -> None:
    run = make_run(steps=1, precision="bf16", activation_checkpointing=recomputed)
    routed = {name: part for name, part in run.model.named_modules() if isinstance(part, SoftMoE)}
    kept = {name: whole(part.phi) for name, part in routed.items()}
    seen = []

    def look(name: str, part: SoftMoE) -> None:
        seen.append(name)
        assert part.phi.dtype == part.scale.dtype == torch.float32
        assert not torch.equal(part.phi, part.phi.bfloat16().float()), "no bf16 number is it"

    def compute(part: Experts) -> None:
        assert part.gate_in.dtype == part.up_out.dtype == torch.bfloat16

    for name, part in routed.items():
        part.register_forward_pre_hook(lambda part, _, name=name: look(name, part))
        part.experts.register_forward_pre_hook(lambda part, _: compute(part))
    run.fit()
    assert set(seen) == set(routed) and routed
    for name, part in routed.items():
        assert not torch.equal(whole(part.phi), kept[name]), "it learns"


def whole(weight: Tensor) -> Tensor:
    """A copy of a weight that may be sharded."""
    full = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full.detach().clone()


def test_more_steps_than_data_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"need 8000 samples, the packed data hold \d+"):
        make_run(steps=1000)
    everything = make_run(steps=0, weights={"alpha": 0.5}).total_steps
    assert 0 < everything < make_run(steps=0).total_steps


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"hidden": 3}, "steel has no config field 'hidden'"),
        ({"model_type": "perceptron"}, "'perceptron' is unknown"),
        ({**ranks.TINY, "vocab_size": 10}, "has 10 embeddings, .* 64 tokens"),
        ({**QWEN, "hidden_size": "wide"}, "hidden_size"),
        ({"attn_implementation": "sdpa"}, "steel has no config field 'attn_implementation'"),
    ],
)
def test_a_wrong_model_is_refused(make_run: MakeRun, model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run(model=model)


@pytest.mark.parametrize(
    ("attention", "message"),
    [("flash", "'flash'; it must be auto, eager"), ("varlen", "'varlen' needs a GPU")],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_attention_that_is_not_there_is_refused(
    make_run: MakeRun, attention: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run(attn_implementation=attention)


@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
@pytest.mark.parametrize("routing", ["token", "dense", "sequence", "reference_norm"])
def test_flops_equal_the_counted_ones(make_run: MakeRun, routing: str) -> None:
    run = make_run(model={**ranks.TINY, "routing": routing}, attn_implementation="eager")
    batch = run.data.loader.step(0)[0]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.model(input_ids=batch["input_ids"], use_cache=False)
    # The counter sees full attention; a causal one needs half.
    tokens, length = batch["input_ids"].numel(), 32
    attention = 4 * 2 * 32 * length / 2 * tokens
    # phi is multiplied in fp32 element order of its own, but it is a matrix product like any other.
    expected = 3 * (counter.get_total_flops() - attention) / tokens
    assert flops_per_token(run.model, length) == pytest.approx(expected)


@pytest.mark.parametrize(("log_interval", "steps"), [(3, 1), (4, 6), (5, 5), (100, 7)])
def test_the_last_step_and_every_saved_one_are_logged(
    make_run: MakeRun, tmp_path: Path, log_interval: int, steps: int
) -> None:
    """Whatever the interval: a run may be told to end at a step that it has made already."""
    make_run("whole", steps=steps, eval_interval=0).fit()
    make_run("sparse", steps=steps, eval_interval=0, log_interval=log_interval).fit()
    truth, lines = (
        {
            line["step"]: line["metrics"]["train/loss"]
            for line in read_metrics(tmp_path / name / METRICS_FILE)
            if "train/loss" in line["metrics"]
        }
        for name in ("whole", "sparse")
    )
    assert list(truth) == list(range(1, steps + 1))
    saved = {step for step in truth if step % 4 == 0}  # the checkpoint interval of these tests
    assert lines.keys() == {s for s in truth if s % log_interval == 0} | saved | {steps}
    assert lines == {step: truth[step] for step in lines}
