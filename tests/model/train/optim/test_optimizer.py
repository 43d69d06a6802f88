"""The table of optimizers, and which parameters decay."""

import typing

import torch
from torch import nn

from model.train.config import PretrainSettings
from model.train.optim.optimizer import OPTIMIZERS, build_optimizer


def test_every_optimizer_can_be_configured_and_every_choice_exists() -> None:
    choices = typing.get_type_hints(PretrainSettings)["optimizer"]
    assert set(typing.get_args(choices)) == set(OPTIMIZERS)


def test_matrices_decay_and_vectors_do_not() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(module, PretrainSettings(weight_decay=0.5, learning_rate=0.1))
    before = {name: value.clone() for name, value in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {n for n, value in module.named_parameters() if not torch.equal(value, before[n])}
    assert decayed == {"0.weight"}


def test_state_is_allocated_before_the_first_step() -> None:
    module = nn.Linear(3, 2)
    for name in OPTIMIZERS:
        optimizer = build_optimizer(
            module, PretrainSettings(optimizer=typing.cast("typing.Any", name))
        )
        for parameter in module.parameters():
            assert "step" in optimizer.state[parameter]
            shapes = {v.shape for k, v in optimizer.state[parameter].items() if k != "step"}
            assert shapes == {parameter.shape}
