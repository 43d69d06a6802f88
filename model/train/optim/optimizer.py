"""Optimizers, by the name that `pretrain.optimizer` gives them.

A new one is a function here with an entry in `OPTIMIZERS`, and its name in the setting
(model/train/config.py). It has to allocate its state at once, one "step" and further tensors per
weight, so that a checkpoint can load into it: checkpoints take whatever tensors are there
(checkpoint/staging.py).
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from common.errors import ConfigError
from model.train.config import PretrainSettings
from model.train.distributed.context import resolve_precision
from model.train.optim.muon import MuonAndAdamW
from model.train.optim.parameters import Parameters, TrainedParameters, trained_parameters


def adamw(parameters: TrainedParameters, settings: PretrainSettings) -> torch.optim.AdamW:
    """AdamW (section 5): matrices decay, vectors do not."""
    return _adamw(parameters.matrices, parameters.vectors, settings)


def muon(parameters: TrainedParameters, settings: PretrainSettings) -> MuonAndAdamW:
    """Muon for the matrices of hidden layers (muon.py), AdamW for all else.

    It orthogonalises in the precision of the forward pass. Raises ConfigError for a model without
    such matrices.
    """
    if not parameters.hidden:
        raise ConfigError(
            "pretrain: optimizer = muon, but this architecture has no linear layer or experts that "
            "Steel knows as matrices of hidden layers (model/train/optim/parameters.py); use adamw"
        )
    device = next(iter(parameters.hidden)).device
    rest = bool(parameters.others or parameters.vectors)
    return MuonAndAdamW(
        parameters.hidden,
        _adamw(parameters.others, parameters.vectors, settings) if rest else None,
        rate=settings.learning_rate,
        rate_factor=settings.muon.learning_rate_factor,
        weight_decay=settings.weight_decay,
        momentum=settings.muon.momentum,
        steps=settings.muon.newton_schulz_steps,
        dtype=resolve_precision(settings, device),
    )


def _adamw(
    matrices: Parameters, vectors: Parameters, settings: PretrainSettings
) -> torch.optim.AdamW:
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,  # one dispatch for all tensors: with DTensors the loop costs 4x on the CPU
    )
    for parameter in (*matrices, *vectors):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


OPTIMIZERS: dict[str, Callable[[TrainedParameters, PretrainSettings], torch.optim.Optimizer]]
OPTIMIZERS = {"adamw": adamw, "muon": muon}
"""Called with the parameters by kind and the settings."""


def build_optimizer(module: nn.Module, settings: PretrainSettings) -> torch.optim.Optimizer:
    """The configured optimizer over a module's trainable parameters, its state allocated.

    Raises RuntimeError where FSDP2's weights are gathered: they are temporary, and a step on them
    changes nothing. ConfigError where the optimizer does not fit the model.
    """
    sharded = isinstance(module, FSDPModule)
    if sharded and not all(isinstance(p, DTensor) for p in module.parameters()):
        raise RuntimeError(
            "the weights are gathered: build the optimizer before a forward pass with gradients"
        )
    return OPTIMIZERS[settings.optimizer](trained_parameters(module), settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group; one with a `rate_factor` has that multiple
    of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)
