"""The two parts of `token` routing beside its matrix products (model/soft_moe.py).

    route     C_tj = softmax over slots j of (keys_j . x_t) / |x_t|          keys = s phi^
    combine   y_t = sum over experts k of C_tk silu(h_tk W3_k) (h_tk W4_k)

T tokens, d hidden size, n experts of width h, S slots. Logits, softmax and sums are fp32.
"""

import torch
from torch import Tensor
from torch.nn import functional

SHORTEST = 1e-12
"""Length below which a token counts as this long, so that a row of zeros divides nothing by 0."""


def route_eager(x: Tensor, keys: Tensor) -> Tensor:
    """x [T, d], keys fp32 [S, d] -> fp32 [T, S], rows that sum to 1."""
    with torch.autocast(device_type=x.device.type, enabled=False):
        x = x.float()
        # Dividing the products instead of x spares a unit-length copy of x.
        length = x.norm(dim=-1, keepdim=True).clamp_min(SHORTEST)
        weights: Tensor = ((x @ keys.t()) / length).softmax(dim=-1)
        return weights


def combine_eager(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
    """hidden [T, n, h], gate_out, up_out [n, h, d], weights [T, n] -> [T, d].

    The weight multiplies h before W4, where y is linear in it and h is narrower than y.
    """
    by_expert = hidden.transpose(0, 1)  # [n, T, h]
    weighted = by_expert * weights.to(hidden.dtype).t().unsqueeze(-1)
    gate = torch.bmm(by_expert, gate_out)  # [n, T, d]
    up = torch.bmm(weighted, up_out)
    return (functional.silu(gate) * up).sum(dim=0)
