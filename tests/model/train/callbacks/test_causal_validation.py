"""The loss that a leaking model's generation meets, and that it is always reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import ConfigError
from model import SteelForCausalLM
from model.data.dataset import IGNORED
from model.train.callbacks.causal_validation import causal_loss, causal_losses
from model.train.loss import ModelWithLoss
from tests.model.references import loss_of_prefixes
from tests.model.train import ranks

MakeRun = Callable[..., Any]


@pytest.mark.parametrize("routing", ["token", "sequence", "reference_norm", "uniform", "dense"])
def test_equals_one_forward_pass_a_position(
    make_model: Callable[..., SteelForCausalLM], tokens: Tensor, routing: str
) -> None:
    model = make_model(routing=routing)
    model_with_loss = ModelWithLoss(model)
    found = causal_losses(model_with_loss, tokens[:, :-1], tokens[:, 1:], num_targets=11)
    assert found[:, 1].tolist() == [11, 11, 11]
    torch.testing.assert_close(found[:, 0].mean().float() / 11, loss_of_prefixes(model, tokens))
    # Where nothing leaks, the parallel pass says the same.
    parallel = model_with_loss(tokens[:, :-1], tokens[:, 1:]).by_sample.double()
    same = torch.allclose(found[:, 0], parallel, atol=1e-4)
    assert same == (routing not in ("sequence", "reference_norm"))


def test_documents_are_kept_apart(
    make_model: Callable[..., SteelForCausalLM], tokens: Tensor
) -> None:
    model_with_loss = ModelWithLoss(make_model(routing="sequence"))
    row, targets = tokens[:1, :-1], tokens[:1, 1:]
    positions = torch.cat([torch.arange(4), torch.arange(7)]).unsqueeze(0)
    packed = causal_losses(model_with_loss, row, targets, positions, num_targets=11)
    parts = [
        causal_losses(model_with_loss, row[:, part], targets[:, part], num_targets=length)
        for part, length in ((slice(0, 4), 4), (slice(4, 11), 7))
    ]
    torch.testing.assert_close(packed, parts[0] + parts[1])


def test_targets_that_do_not_count_are_left_out(
    make_model: Callable[..., SteelForCausalLM], tokens: Tensor
) -> None:
    model_with_loss = ModelWithLoss(make_model(routing="sequence"))
    row, targets = tokens[:1, :-1], tokens[:1, 1:].clone()
    every = causal_losses(model_with_loss, row, targets, num_targets=11)
    alone = causal_losses(model_with_loss, row[:, :1], targets[:, :1], num_targets=1)
    targets[:, 0] = IGNORED
    torch.testing.assert_close(
        causal_losses(model_with_loss, row, targets, num_targets=11), every - alone
    )


def test_few_targets_are_spread_over_the_row(
    make_model: Callable[..., SteelForCausalLM], tokens: Tensor
) -> None:
    model = make_model(routing="sequence")
    seen: list[int] = []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    causal_losses(ModelWithLoss(model), tokens[:, :-1], tokens[:, 1:], num_targets=3)
    assert seen == [1, 6, 11]


def test_compiled_layers_are_not_compiled_for_each_length(
    make_model: Callable[..., SteelForCausalLM], tokens: Tensor
) -> None:
    model = make_model(routing="sequence")
    plain = causal_losses(ModelWithLoss(model), tokens[:, :-1], tokens[:, 1:])
    lengths: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        lengths.append(len(inputs))
        return graph

    for layer in model.model.layers:
        layer.compile(backend=count)
    found = causal_losses(ModelWithLoss(model), tokens[:, :-1], tokens[:, 1:])
    assert not lengths
    assert torch.equal(found, plain)


@pytest.mark.parametrize("separate", [True, False])
def test_validation_of_a_leaking_model_reports_it(make_run: MakeRun, separate: bool) -> None:
    model = {**ranks.TINY, "routing": "sequence"}
    with pytest.warns(UserWarning, match="later tokens"):
        run = make_run(
            model=model,
            steps=2,
            warmup_steps=1,
            eval_interval=1,
            validation_samples=3,
            separate_documents=separate,
        )
    logged: list[dict[str, float]] = []
    run.log = lambda step, metrics: logged.append(metrics)
    run.fit()
    validations = [metrics for metrics in logged if "validation/loss" in metrics]
    assert len(validations) == 2
    last = validations[-1]
    assert last["validation/causal_loss"] > 0
    assert last["validation/causal_loss"] != last["validation/loss"]
    assert causal_loss(last) == last["validation/causal_loss"]
    assert causal_loss({"validation/loss": 2.0}) == 2.0
    dataset = run.data.validation
    batch = dataset.batch(range(3), separate_documents=separate)
    by_hand = causal_losses(
        run.train_step.model_with_loss,
        batch["input_ids"].long(),
        batch["labels"].long(),
        batch.get("position_ids"),
    )
    total, number = by_hand.sum(dim=0).tolist()
    assert number < 3 * 32, "some of the targets looked at begin a document"
    assert last["validation/causal_loss"] == pytest.approx(total / number, rel=1e-5)


def test_a_leaking_model_without_held_out_data_is_refused(
    make_run: MakeRun, tmp_path: Path
) -> None:
    data = ranks.write_packed(tmp_path / "all", validation_fraction=0.0)
    model = {**ranks.TINY, "routing": "reference_norm"}
    with (
        pytest.warns(UserWarning, match="later tokens"),
        pytest.raises(ConfigError, match=r"'reference_norm' leaks.*pack.validation_fraction"),
    ):
        make_run(data=data, model=model, eval_interval=0)
