"""Root-mean-square normalisation: y = w x / sqrt(mean(x^2) + eps), mean over the last axis.

Zhang and Sennrich 2019. The statistics are fp32; y has x's type.
"""

import torch
from torch import Tensor


def rms_norm_eager(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., d], weight [d] -> [..., d] of x's type."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return weight.to(x.dtype) * normed.to(x.dtype)


def add_rms_norm_eager(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x, residual [..., d], weight [d] -> (rms_norm(x + residual), x + residual)."""
    total = x + residual
    return rms_norm_eager(total, weight, eps), total
