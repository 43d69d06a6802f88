"""Liger-Kernel's operations behind our signatures (optional: the extra `liger`, version 0.8.5).

RoPE overwrites query and key to save memory: harmless where the model calls it, on a projection's
output that nothing else reads. Cross entropy waits for the GPU twice (it counts targets on the
CPU), and sums dW in W's type over chunks as small as [T, d].
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from model.kernels.cross_entropy import Reduction, num_kept
from model.kernels.rope import split_heads


def unavailable_reason() -> str | None:
    """Reason why this machine cannot run Liger's kernels; None if it can."""
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed (pip install liger-kernel==0.8.5)"
    if not torch.cuda.is_available():
        return "this machine has no GPU"
    return None


def _apply(module: str, name: str, *arguments: Any) -> Any:
    """Call an autograd function of Liger's, imported at first use."""
    functions = importlib.import_module(f"liger_kernel.ops.{module}")
    return getattr(functions, name).apply(*arguments)


def rms_norm_liger(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., d], weight [d] -> [..., d]"""
    y: Tensor = _apply("rms_norm", "LigerRMSNormFunction", x, weight, eps, 0.0, "llama", False)
    return y


def add_rms_norm_liger(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x, residual [..., d], weight [d] -> (norm of the sum, the sum)"""
    name = "LigerFusedAddRMSNormFunction"
    y, total = _apply("fused_add_rms_norm", name, x, residual, weight, eps, 0.0, "llama", False)
    return y, total


def rope_liger(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """query [B, heads, M, d], key [B, key heads, M, d] -> both rotated; overwrites them."""
    # Liger expects the angles of a whole head, as in Transformers.
    cos, sin = (torch.cat((x, x), dim=-1).squeeze(1) for x in (cos, sin))
    rotated: tuple[Tensor, Tensor] = _apply("rope", "LigerRopeFunction", query, key, cos, sin)
    return rotated


def rope_qkv_liger(
    product: Tensor, num_key_heads: int, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As rope_qkv_eager. Liger copies what is not contiguous, and so overwrites nothing here."""
    query, key, value = split_heads(product, num_key_heads, 2 * cos.shape[-1])
    return (*rope_liger(query, key, cos, sin), value)


def swiglu_liger(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [...] -> [...]"""
    y: Tensor = _apply("swiglu", "LigerSiLUMulFunction", gate, up)
    return y


def swiglu_halves_liger(both: Tensor) -> Tensor:
    """both [..., 2h], gate and up side by side -> [..., h]"""
    return swiglu_liger(*both.chunk(2, dim=-1))


def linear_cross_entropy_liger(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    chunk_size: int | None = None,
    reduction: Reduction = "mean",
    token_losses: Tensor | None = None,
) -> Tensor:
    """As linear_cross_entropy; Liger chooses the chunks, so `chunk_size` has no effect."""
    losses: Tensor = _LossesInOnePass.apply(hidden, weight, targets, ignore_index)  # type: ignore[no-untyped-call]
    if token_losses is not None:
        token_losses.copy_(losses.detach())
    loss = losses.sum()
    return loss / num_kept(targets, ignore_index) if reduction == "mean" else loss


class _LossesInOnePass(torch.autograd.Function):
    """Liger's forward and backward functions, with each token's loss.

    Liger's own autograd function gives losses by token only in a mode that projects twice. Called
    directly for gradients, its forward pass also computes those of the sum of losses: so the
    incoming gradient must be one number for all tokens, as that of a sum is.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int
    ) -> Tensor:
        functions = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
        losses, _, _, _, grad_hidden, grad_weight, _ = functions.fused_linear_cross_entropy_forward(
            hidden,
            weight,
            targets,
            ignore_index=ignore_index,
            reduction="none",
            compute_gradients=any(ctx.needs_input_grad),
            weight_requires_grad=ctx.needs_input_grad[1],
        )
        ctx.save_for_backward(grad_hidden, grad_weight)
        found: Tensor = losses
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        functions = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
        scale = grads[0][0]
        grad_hidden, grad_weight, _ = functions.fused_linear_cross_entropy_backward(
            scale, *ctx.saved_tensors, None
        )
        return grad_hidden, grad_weight, None, None
