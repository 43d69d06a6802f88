"""AdamW and the global-norm clip, on whole tensors or on FSDP2 shards alike."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.train.config import PretrainSettings


def build_optimizer(module: nn.Module, settings: PretrainSettings) -> torch.optim.AdamW:
    """AdamW (section 5) with its state allocated at once, so that a checkpoint can load into it.

    Matrices decay; vectors (norm weights, biases, learned scales) do not, since pulling a norm
    weight or a scale to zero is no regulariser.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,  # one dispatch for all tensors: with DTensors the loop costs 4x on the CPU
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """This rank's part of every gradient; views, so that scaling them scales the gradients."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return [g.to_local() if isinstance(g, DTensor) else g for g in gradients]


def sum_of_squares(gradients: list[Tensor]) -> Tensor:
    """Sum of the squared elements, float64 scalar on the gradients' device.

    Summed over the ranks of one copy of the weights it is the squared global norm: FSDP2 shards
    have no element twice. A rank may have none at all (more ranks than rows).
    """
    filled = [g for g in gradients if g.numel()]
    if not filled:
        return torch.zeros((), dtype=torch.float64, device=gradients[0].device)
    norms = torch.stack(torch._foreach_norm(filled)).to(torch.float64)
    return norms.square().sum()


def clip_gradients(gradients: list[Tensor], norm: float, clip: float) -> None:
    """Scale in place so that the global norm becomes at most `clip`."""
    if norm > clip:
        torch._foreach_mul_(gradients, clip / norm)
