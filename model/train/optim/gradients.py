"""The global gradient norm, scale and clip, on whole tensors or on FSDP2 shards alike."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


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


def scale_gradients(gradients: list[Tensor], scale: float, *, norm: float, clip: float) -> None:
    """Multiply in place by `scale`, which gives the global norm `norm`, and then by what makes
    that at most `clip`."""
    if norm > clip:
        scale *= clip / norm
    if scale != 1:
        torch._foreach_mul_(gradients, scale)
