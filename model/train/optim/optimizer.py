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

from model.train.config import PretrainSettings

Parameters = list[nn.Parameter]


def adamw(
    weights: Parameters, vectors: Parameters, settings: PretrainSettings
) -> torch.optim.AdamW:
    """AdamW (section 5): `weights` decay, `vectors` do not."""
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,  # one dispatch for all tensors: with DTensors the loop costs 4x on the CPU
    )
    for parameter in (*weights, *vectors):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


OPTIMIZERS: dict[str, Callable[[Parameters, Parameters, PretrainSettings], torch.optim.Optimizer]]
OPTIMIZERS = {"adamw": adamw}
"""Called with the matrices, the vectors and the settings."""


def build_optimizer(module: nn.Module, settings: PretrainSettings) -> torch.optim.Optimizer:
    """The configured optimizer over a module's trainable parameters, its state allocated.

    Matrices and vectors (norm weights, biases, learned scales) are told apart because pulling a
    norm weight or a scale to zero is no regulariser.

    Raises RuntimeError where FSDP2's weights are gathered: they are temporary, and a step on them
    changes nothing.
    """
    sharded = isinstance(module, FSDPModule)
    if sharded and not all(isinstance(p, DTensor) for p in module.parameters()):
        raise RuntimeError(
            "the weights are gathered: build the optimizer before a forward pass with gradients"
        )
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    return OPTIMIZERS[settings.optimizer](matrices, vectors, settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
