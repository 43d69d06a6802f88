"""Rotary positions (Su et al. 2021): turn the pair (x_i, x_{i + d/2}) by position * theta^(-2i/d).

    a = x[..., :d/2], b = x[..., d/2:]      y = [a cos - b sin, b cos + a sin]

Angles, sines and the rotation itself are fp32 even when the model computes in bf16 (paper, section
3: at position 2,000 a bf16 angle is off by up to 4 radians); the result has x's type.
"""

import torch
from torch import Tensor


def rope_angles(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each fp32 [B, 1, M, head_dim / 2], of position_ids [B, M].

    Computed anew from three numbers instead of kept in a buffer: buffers are cast to bf16 by
    `model.to`, and are uninitialised memory after loading on the meta device.
    """
    with torch.autocast(device_type=position_ids.device.type, enabled=False):
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
        frequencies = theta ** (-exponents / head_dim)
        angles = position_ids.float().unsqueeze(-1) * frequencies
        return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rope_eager(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, heads, M, d], cos and sin fp32 [B or 1, 1, M, d/2] -> like x."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def rope_pair_eager(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """rope of query [B, heads, M, d] and key [B, key heads, M, d] with the same angles."""
    return rope_eager(query, cos, sin), rope_eager(key, cos, sin)
