"""Cross entropy of a projection, without ever holding all logits.

    logits = H W^T          H [T, d] hidden states, W [V, d], targets [T]
    loss   = sum over kept t of (logsumexp_v logits_tv - logits_t,target) / N

At T = 16,384 and V = 151,936 the logits alone are 10 GB in fp32. `linear_cross_entropy` makes them
for `chunk_size` tokens at a time, and the gradients in the same pass, as Liger-Kernel does: with
p = softmax(logits), dlogits = (p - onehot) / N, dH = dlogits W, dW = dlogits^T H.

Products accumulate in fp32 and logits stay fp32, also for bf16 inputs. (torch 2.13's own
F.linear_cross_entropy is wrong there: see docs/FOOTGUNS.md.)
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

DEFAULT_CHUNK_SIZE = 1024
"""Tokens whose logits exist at once: 0.6 GB in fp32 at V = 151,936."""

Reduction = Literal["mean", "sum"]


def linear_cross_entropy_eager(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    reduction: Reduction = "mean",
    token_losses: Tensor | None = None,
) -> Tensor:
    """The same with all logits at once: the reference. `chunk_size` has no effect."""
    logits = functional.linear(hidden, weight).float()
    losses = functional.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    if token_losses is not None:
        token_losses.copy_(losses.detach())
    loss = losses.sum()
    return loss / _num_kept(targets, ignore_index) if reduction == "mean" else loss


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    reduction: Reduction = "mean",
    token_losses: Tensor | None = None,
) -> Tensor:
    """Cross entropy of softmax(hidden weight^T) against targets, chunk by chunk.

    hidden [T, d], weight [V, d], targets int64 [T] -> fp32 scalar. Targets equal to ignore_index do
    not count; where none is left the mean is 0, not NaN. Differentiable once in hidden and weight.
    token_losses: fp32 [T] that receives each token's loss (0 where it does not count), for
    statistics by source; no gradient flows through it.
    Raises ValueError for shapes that do not fit.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} "
            "must be [T, d] and [V, d]"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets {tuple(targets.shape)} must be [T] with T = {hidden.shape[0]}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} must be at least 1")
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    loss: Tensor = _ChunkedLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, ignore_index, chunk_size, reduction == "mean", token_losses
    )
    return loss


def _num_kept(targets: Tensor, ignore_index: int) -> Tensor:
    """Number of counted targets, at least 1, on the device (no synchronisation)."""
    return (targets != ignore_index).sum().clamp_min(1)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        chunk_size: int,
        mean: bool,
        token_losses: Tensor | None,
    ) -> Tensor:
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            need_hidden, need_weight = ctx.needs_input_grad[:2]
            weigh = _WideMatmul(weight)
            factor = 1.0 / _num_kept(targets, ignore_index) if mean else hidden.new_ones(())
            factor = factor.float()
            loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if need_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
            for start in range(0, hidden.shape[0], chunk_size):
                part = hidden[start : start + chunk_size]
                goal = targets[start : start + chunk_size]
                kept = (goal != ignore_index).unsqueeze(-1)
                goal = goal.unsqueeze(-1).where(kept, 0)
                logits = weigh.logits(part)
                log_sum = logits.logsumexp(dim=-1, keepdim=True)
                losses = (log_sum - logits.gather(-1, goal)) * kept
                loss += losses.sum()
                if token_losses is not None:
                    token_losses[start : start + chunk_size] = losses.squeeze(-1)
                if not (need_hidden or need_weight):
                    continue
                # In place from here: this is the memory that chunking is for.
                slope = logits.sub_(log_sum).exp_()
                slope.scatter_add_(-1, goal, torch.full_like(goal, -1, dtype=slope.dtype))
                slope *= kept * factor
                slope = slope.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + chunk_size] = slope @ weight
                if grad_weight is not None:
                    weigh.accumulate(grad_weight, slope, part)
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.weight_dtype = weight.dtype
            return loss * factor

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * grad).to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


class _WideMatmul:
    """Products of low-precision matrices with fp32 results.

    CUDA does that in the product itself; elsewhere the operands are widened first.
    """

    def __init__(self, weight: Tensor) -> None:
        self.narrow = weight.is_cuda and weight.dtype != torch.float32
        self.weight = (weight if self.narrow else weight.float()).t()

    def logits(self, part: Tensor) -> Tensor:
        """part [c, d] -> fp32 [c, V]"""
        if self.narrow:
            return torch.mm(part, self.weight, out_dtype=torch.float32)
        return torch.mm(part.float(), self.weight)

    def accumulate(self, total: Tensor, slope: Tensor, part: Tensor) -> None:
        """total fp32 [V, d] += slope^T [V, c] part [c, d]"""
        if self.narrow:
            total += torch.mm(slope.t(), part, out_dtype=torch.float32)
        else:
            total.addmm_(slope.float().t(), part.float())
