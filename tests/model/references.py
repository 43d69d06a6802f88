"""Slow and obvious computations that the fast ones are compared with."""

import torch
from torch import Tensor
from torch.nn import functional

from model import SteelForCausalLM


@torch.no_grad()
def loss_of_prefixes(model: SteelForCausalLM, input_ids: Tensor) -> Tensor:
    """Mean loss [scalar] when each target is predicted from its prefix alone, nats a token.

    input_ids [B, M] without padding, M >= 2. One forward pass a position.
    """
    losses = []
    for end in range(1, input_ids.shape[1]):
        logits = model(input_ids=input_ids[:, :end], use_cache=False).logits[:, -1]
        losses.append(functional.cross_entropy(logits.float(), input_ids[:, end], reduction="none"))
    return torch.cat(losses).mean()
