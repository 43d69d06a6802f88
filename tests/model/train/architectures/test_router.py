"""Mixtures of experts train with their router's loss, as Transformers' own models do."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from model.data import PackedDataset, PackedManifest
from model.data.dataset import IGNORED
from model.train.loss import ModelWithLoss
from model.train.run.folder import MODEL_FOLDER
from model.train.run.plan import sample_order
from model.train.trainer import Trainer
from tests.model.train import ranks
from tests.model.train.architectures.shapes import SMALL, WIDE

MakeRun = Callable[..., Trainer]
ROUTED = ["mixtral", "qwen2_moe", "qwen3_moe"]
NOT_PLAIN = {
    "granitemoe": {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0}
}
"""Its logits are scaled, so that all are made."""
QWEN3_MOE = {"model_type": "qwen3_moe", **SMALL["qwen3_moe"], "router_aux_loss_coef": 0.5}


def build(kind: str, **changes: Any) -> PreTrainedModel:
    values = {**(SMALL | NOT_PLAIN)[kind], "vocab_size": 61, "output_router_logits": True}
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[kind](**{**values, "router_aux_loss_coef": 0.3, **changes})
    )
    return model.train()


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", [*ROUTED, *NOT_PLAIN])
def test_loss_and_gradients_are_those_of_the_model_itself(kind: str, tokens: Tensor) -> None:
    model = build(kind)
    own = model(input_ids=tokens, labels=tokens, use_cache=False)
    expected = gradients(model, own.loss)

    model_with_loss = ModelWithLoss(model)
    assert model_with_loss.has_plain_head == (kind not in NOT_PLAIN)
    labels = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)], dim=1)
    found = model_with_loss(tokens, labels)
    assert found.router is not None
    assert own.aux_loss.item() > 1, "of perfectly balanced experts it is the number of choices"
    torch.testing.assert_close(found.router, own.aux_loss)
    torch.testing.assert_close(found.mean(), own.loss - 0.3 * own.aux_loss)
    both = gradients(model, found.mean() + model_with_loss.router_weight * found.router)
    assert both.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(both[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "off", [{"output_router_logits": False}, {"router_aux_loss_coef": 0.0}], ids=str
)
def test_it_can_be_left_out(tokens: Tensor, off: dict[str, Any]) -> None:
    model_with_loss = ModelWithLoss(build("qwen3_moe", **off))
    assert model_with_loss(tokens, tokens).router is None


def test_evaluation_is_without_it(tokens: Tensor) -> None:
    model_with_loss = ModelWithLoss(build("qwen3_moe"))
    assert model_with_loss.eval()(tokens, tokens).router is None


def test_steps_equal_a_plain_loop(make_run: MakeRun, packed: Path) -> None:
    """The router's loss is the mean over micro-batches, however many of their tokens count."""
    run = make_run(model=QWEN3_MOE, steps=3, eval_interval=0, max_grad_norm=1e9)
    reference = AutoModelForCausalLM.from_config(run.model.config, dtype=torch.float32).train()
    reference.load_state_dict(run.model.state_dict())
    start = [p.detach().clone() for p in reference.parameters()]
    run.fit()
    settings = run.settings
    order = sample_order(settings, PackedManifest.read(packed / "shards"))
    dataset = PackedDataset(packed / "shards", order)
    assert len(start) == len(list(run.model.parameters()))

    rows = torch.stack([dataset[i]["tokens"] for i in range(8)])
    ids = rows[:, :-1]
    targets = rows[:, 1:].masked_fill(ids == ranks.END, IGNORED)
    num_targets = int((targets != IGNORED).sum())
    assert num_targets < targets.numel(), "some tokens begin a document"
    cross_entropy, router = 0.0, 0.0
    for part, labels in zip(ids.split(2), targets.split(2), strict=True):
        output = reference(
            input_ids=part,
            position_ids=ranks.positions(part),
            use_cache=False,
            output_router_logits=True,
        )
        loss = functional.cross_entropy(
            output.logits.flatten(0, 1), labels.flatten(), reduction="sum"
        )
        (loss / num_targets + 0.5 * output.aux_loss / 4).backward()
        cross_entropy += loss.item() / num_targets
        router += output.aux_loss.item() / 4
    norm = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters()])
    first = ranks.read_run(run.checkpoints.folder.parent)[1]
    assert first["train/loss"] == pytest.approx(cross_entropy, rel=1e-5)
    assert first["train/router_loss"] == pytest.approx(router, rel=1e-5)
    assert first["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.usefixtures("fork_server")
def test_two_ranks_train_the_same(packed: Path, tmp_path: Path) -> None:
    found = []
    for world_size in (1, 2):
        values = ranks.settings(model=QWEN3_MOE, steps=4)
        job = ranks.write_job(packed, tmp_path / str(world_size), values)
        assert ranks.run_ranks(job, world_size, SMALL_MODEL_PARAMETERS=0) == [0] * world_size
        found.append(ranks.read_run(job.parent))
    for step in range(1, 5):
        for name in ("train/loss", "train/router_loss", "train/grad_norm"):
            assert found[1][step][name] == pytest.approx(found[0][step][name], rel=1e-4), name
    # Whoever uses the model wants no router's logits, and can train it further.
    saved = json.loads((tmp_path / "2" / MODEL_FOLDER / "config.json").read_text())
    assert not saved.get("output_router_logits", False)
    assert saved["router_aux_loss_coef"] == 0.5


@pytest.mark.parametrize("amount", ["selective", "full"])
def test_recomputed_layers_give_the_same(make_run: MakeRun, amount: str) -> None:
    kept, again = (
        make_run(name, model=QWEN3_MOE, steps=3, eval_interval=0, activation_checkpointing=name)
        for name in ("none", amount)
    )
    for run in (kept, again):
        run.fit()
    steps = [ranks.read_run(run.checkpoints.folder.parent) for run in (kept, again)]
    for step in range(1, 4):
        for name in ("train/loss", "train/router_loss", "train/grad_norm"):
            assert steps[1][step][name] == pytest.approx(steps[0][step][name], rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_layers_give_the_same(make_run: MakeRun) -> None:
    runs = [
        make_run(str(compiled), model=QWEN3_MOE, steps=3, eval_interval=0, compile=compiled)
        for compiled in (False, True)
    ]
    for run in runs:
        run.fit()
    steps = [ranks.read_run(run.checkpoints.folder.parent) for run in runs]
    for step in range(1, 4):
        for name in ("train/loss", "train/router_loss", "train/grad_norm"):
            assert steps[1][step][name] == pytest.approx(steps[0][step][name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("kind", ["qwen3_moe", "gemma2"])
def test_a_run_that_was_killed_goes_on_bit_for_bit(packed: Path, tmp_path: Path, kind: str) -> None:
    values = ranks.settings(model={"model_type": kind, **SMALL[kind]}, steps=8)
    whole = ranks.write_job(packed, tmp_path / "whole", values)
    assert ranks.run_ranks(whole, 2) == [0, 0]
    broken = ranks.write_job(packed, tmp_path / "broken", values)
    assert -signal.SIGKILL in ranks.run_ranks(broken, 2, ranks.Fault(step=6))
    assert ranks.run_ranks(broken, 2) == [0, 0]
    expected, found = ranks.read_run(whole.parent), ranks.read_run(broken.parent)
    for step in range(1, 9):
        for name in ("train/loss", "train/router_loss", "train/grad_norm", "validation/loss"):
            assert found[step].get(name) == expected[step].get(name)
