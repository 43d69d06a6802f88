"""Activation checkpointing: a layer's backward pass recomputes activations instead of keeping them.

    none        everything is kept
    selective   matrix products and attention are kept; norms, activations, rotations, softmax …
                are computed again: most of the memory back for a few percent of the time
    full        only each layer's input is kept; its forward pass runs twice, a third more FLOPs

The layer's `forward` is replaced, not its `__call__`: hooks (FSDP2's) stay outside and run once,
and torch.compile of the layer sees the checkpoint and obeys its policy. Weights keep their names.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

ActivationCheckpointing: TypeAlias = Literal["none", "selective", "full"]

MATRIX_PRODUCTS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_mm", "_grouped_mm", "_scaled_grouped_mm"}
)
"""Names of ATen's matrix products; every einsum and linear layer becomes one of them."""


def checkpoint_activations(layers: Iterable[nn.Module], amount: ActivationCheckpointing) -> None:
    """Make each layer forget `amount` of its activations. Works for any layer of tensors."""
    if amount == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if amount == "selective":
        contexts = functools.partial(create_selective_checkpoint_contexts, keep_products)
        options["context_fn"] = contexts
    for layer in layers:
        layer.forward = _recomputed(layer.forward, options)  # type: ignore[method-assign]


def keep_products(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """The selective policy: keep what costs FLOPs to make again."""
    if _is_product(operator):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


@functools.cache
def _is_product(operator: Any) -> bool:
    # ATen's SDPA kernels, flex_attention, torch's varlen and flash-attn's own operators say it.
    name = str(getattr(operator, "_opname", None) or getattr(operator, "__name__", operator))
    attention = any(word in name for word in ("attention", "flash_attn", "varlen_attn"))
    return name in MATRIX_PRODUCTS or (attention and "backward" not in name)


def _recomputed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():  # validation: there is no backward pass
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, **options, **kwargs)

    return recomputed
