"""Cross entropy of a linear projection, computed in chunks of logits.

    logits = H W^T          H [T, d] hidden states, W [V, d], targets [T]
    loss   = sum over kept t of (logsumexp_v logits_tv - logits_t,target)      (/ number kept)

At T = 16,384 and V = 151,936 the logits alone are 10 GB in fp32. Here they are made for a chunk of
tokens at a time, and the gradients in the same pass, as Liger-Kernel does: with p = softmax of the
logits, dlogits = p - onehot, dH = dlogits W, dW = dlogits^T H. They are the gradients of the sum;
backward multiplies them by the incoming gradient.

    for each chunk   logits = H_c W^T ──▶ losses, dlogits in place ──▶ dH_c, dW += dlogits^T H_c

- `linear_cross_entropy` ("chunked"): logits and dW in fp32 also for bf16 inputs.
- `linear_cross_entropy_triton`: logits in the inputs' type, as the projection of any bf16 model has
  them; the kernel reads a chunk twice (the second time from the L2 cache if it fits) and writes it
  once, where torch takes seven passes. dW is summed in fp32 within a chunk and rounded to W's type
  after each: chunks are as large as memory allows, hence few (docs/adr/0015).

(torch 2.13's own F.linear_cross_entropy is wrong in bf16: see docs/FOOTGUNS.md.)
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from model.cost.memory import chunk_rows
from model.kernels.triton_support import jit, on_device, power_of_2, tl

VECTOR = 16
"""Logits that a lane of the kernel loads at a time. `triton8` loads 8: half as many registers for
them, twice as many turns of the loop. Which is faster a GPU decides (docs/adr/0015)."""

Reduction = Literal["mean", "sum"]


def linear_cross_entropy_eager(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    chunk_size: int | None = None,
    reduction: Reduction = "mean",
    token_losses: Tensor | None = None,
) -> Tensor:
    """Reference implementation with all logits at once. `chunk_size` has no effect."""
    logits = functional.linear(hidden, weight).float()
    losses = functional.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    if token_losses is not None:
        token_losses.copy_(losses.detach())
    loss = losses.sum()
    return loss / num_kept(targets, ignore_index) if reduction == "mean" else loss


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    chunk_size: int | None = None,
    reduction: Reduction = "mean",
    token_losses: Tensor | None = None,
    *,
    vector: int = 0,
) -> Tensor:
    """Cross entropy of softmax(hidden weight^T) against targets, chunk by chunk.

    hidden [T, d], weight [V, d], targets int64 [T] -> fp32 scalar. Targets equal to ignore_index do
    not count; if none is left the mean is 0, not NaN. Differentiable once in hidden and weight.
    chunk_size: tokens whose logits exist at once; None: as LOGITS_BUDGET (model/cost) holds.
    token_losses: fp32 [T] that receives each token's loss (0 where it does not count), for
    statistics by source; no gradient flows through it.
    vector: logits that a lane of the Triton kernel loads at a time, a power of 2; 0: torch's own
    operations. Raises ValueError for shapes that do not fit.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} "
            "must be [T, d] and [V, d]"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets {tuple(targets.shape)} must be [T] with T = {hidden.shape[0]}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} must be at least 1")
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    learns = torch.is_grad_enabled()
    loss, losses, _, _ = _linear_cross_entropy(
        hidden,
        weight,
        targets,
        ignore_index,
        chunk_size or 0,
        vector,
        learns and hidden.requires_grad,
        learns and weight.requires_grad,
    )
    if token_losses is not None:
        token_losses.copy_(losses.detach())
    mean: Tensor = loss / num_kept(targets, ignore_index) if reduction == "mean" else loss
    return mean


def linear_cross_entropy_triton(*arguments: Any, **options: Any) -> Tensor:
    """As linear_cross_entropy, with one Triton kernel from logits to losses and gradients.

    A target outside of [0, V) that is not ignore_index gives a loss of NaN.
    """
    return linear_cross_entropy(*arguments, **options, vector=VECTOR)


def linear_cross_entropy_triton8(*arguments: Any, **options: Any) -> Tensor:
    """As linear_cross_entropy_triton, with lanes that load 8 logits at a time."""
    return linear_cross_entropy(*arguments, **options, vector=8)


def num_kept(targets: Tensor, ignore_index: int) -> Tensor:
    """Number of counted targets, at least 1, on the device (no synchronisation)."""
    return (targets != ignore_index).sum().clamp_min(1)


@torch.library.custom_op("steel::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    chunk_size: int,
    vector: int,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of losses, losses [T], and the sum's gradients dH, dW (empty where not needed)."""
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        return _run(
            hidden, weight, targets, ignore_index, chunk_size, vector, need_hidden, need_weight
        )


@_linear_cross_entropy.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    chunk_size: int,
    vector: int,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(hidden, weight, need_hidden, need_weight)


def _outputs(
    hidden: Tensor, weight: Tensor, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Empty tensors for loss, losses, dH and dW."""
    return (
        hidden.new_zeros((), dtype=torch.float32),
        hidden.new_empty(hidden.shape[:1], dtype=torch.float32),
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def _run(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    chunk_size: int,
    vector: int,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_tokens, vocabulary, targets = hidden.shape[0], weight.shape[0], targets.contiguous()
    _, losses, grad_hidden, grad_weight = _outputs(hidden, weight, need_hidden, need_weight)
    products = _Products(weight, wide=not vector)
    row_bytes = vocabulary * products.dtype.itemsize
    if products.dtype != hidden.dtype:
        row_bytes += vocabulary * hidden.itemsize  # the gradient, rounded
    rows = min(chunk_size or chunk_rows(num_tokens, row_bytes), max(num_tokens, 1))
    buffer = hidden.new_empty((rows, vocabulary), dtype=products.dtype)
    total = grad_weight
    if need_weight and products.dtype != weight.dtype:
        total = torch.empty_like(weight, dtype=products.dtype)
    for start in range(0, num_tokens, rows):
        chunk = slice(start, min(start + rows, num_tokens))
        logits = buffer[: chunk.stop - start]
        products.logits(hidden[chunk], logits)
        with_gradient = need_hidden or need_weight
        rows_to_losses = partial(_losses_triton, vector) if vector else _losses_torch
        rows_to_losses(logits, targets[chunk], losses[chunk], ignore_index, with_gradient)
        if not with_gradient:
            continue
        slope = logits.to(hidden.dtype)
        if need_hidden:
            torch.mm(slope, weight, out=grad_hidden[chunk])
        if need_weight:
            products.accumulate(total, slope, hidden[chunk], first=start == 0)
    if num_tokens == 0:
        total.zero_()
    if total is not grad_weight:
        grad_weight.copy_(total)
    return losses.sum(), losses, grad_hidden, grad_weight


class _Products:
    """Matrix products whose results are fp32 (wide) or of the inputs' type.

    CUDA widens in the product itself; elsewhere the operands are widened first.
    """

    def __init__(self, weight: Tensor, *, wide: bool) -> None:
        self.dtype = torch.float32 if wide else weight.dtype
        self.widen_result = weight.is_cuda and self.dtype != weight.dtype
        self.weight = (weight if self.widen_result else weight.to(self.dtype)).t()

    def logits(self, part: Tensor, out: Tensor) -> None:
        """out [c, V] = part [c, d] W^T"""
        if self.widen_result:
            torch.mm(part, self.weight, out_dtype=self.dtype, out=out)
        else:
            torch.mm(part.to(self.dtype), self.weight, out=out)

    def accumulate(self, total: Tensor, slope: Tensor, part: Tensor, *, first: bool) -> None:
        """total [V, d] += slope^T [V, c] part [c, d]; total is empty memory the first time."""
        if self.widen_result:
            product = torch.mm(slope.t(), part, out_dtype=self.dtype)
            _ = total.copy_(product) if first else total.add_(product)
        elif first:
            torch.mm(slope.t().to(self.dtype), part.to(self.dtype), out=total)
        else:
            total.addmm_(slope.t().to(self.dtype), part.to(self.dtype))


def _losses_torch(
    logits: Tensor, targets: Tensor, losses: Tensor, ignore_index: int, with_gradient: bool
) -> None:
    """Compute losses [c] from logits [c, V], which become their gradient in place."""
    kept = (targets != ignore_index).unsqueeze(-1)
    goal = targets.unsqueeze(-1).where(kept, 0)
    log_sum = logits.logsumexp(dim=-1, keepdim=True)
    losses.copy_(((log_sum - logits.gather(-1, goal)) * kept).squeeze(-1))
    if with_gradient:
        logits.sub_(log_sum).exp_()
        logits.scatter_add_(-1, goal, torch.full_like(goal, -1, dtype=logits.dtype))
        logits.mul_(kept)


def _losses_triton(
    vector: int,
    logits: Tensor,
    targets: Tensor,
    losses: Tensor,
    ignore_index: int,
    with_gradient: bool,
) -> None:
    """As _losses_torch, in one kernel, a program for each row."""
    lanes = min(power_of_2(-(-logits.shape[1] // vector)), 1024)
    with on_device(logits):
        _losses_kernel[(logits.shape[0],)](
            logits,
            targets,
            losses,
            logits.stride(0),
            logits.shape[1],
            ignore_index,
            WITH_GRADIENT=with_gradient,
            LANES=lanes,
            VECTOR=vector,
            # 32 warps fill a multiprocessor with one row. 132 rows of 304 KB then are in flight,
            # which fit into an H200's L2 cache, so that the second reading comes from there.
            num_warps=max(1, lanes // 32),
        )


@jit
def _losses_kernel(  # type: ignore[no-untyped-def]
    logits,
    targets,
    losses,
    row_stride,
    num_columns,
    ignore_index,
    WITH_GRADIENT: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * row_stride
    target = tl.load(targets + row)
    kept = target != ignore_index
    # Before anything is overwritten: the reductions over lanes below are barriers.
    inside = (target >= 0) & (target < num_columns)
    goal = tl.load(logits + target, mask=kept & inside, other=float("nan")).to(tl.float32)
    columns = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    # Each lane keeps a running maximum and sum of its own: no barrier while the row streams by, and
    # one more exponential in VECTOR. Lowest finite number, so that -inf - highest is no NaN.
    highest = tl.full((LANES,), -3.0e38, dtype=tl.float32)
    total = tl.zeros((LANES,), dtype=tl.float32)
    for start in range(0, num_columns, LANES * VECTOR):
        mask = start + columns < num_columns
        x = tl.load(logits + start + columns, mask=mask, other=float("-inf")).to(tl.float32)
        raised = tl.maximum(highest, tl.max(x, axis=1))
        total = total * tl.exp(highest - raised) + tl.sum(tl.exp(x - raised[:, None]), axis=1)
        highest = raised
    peak = tl.max(highest, axis=0)
    log_sum = peak + tl.log(tl.sum(total * tl.exp(highest - peak), axis=0))
    tl.store(losses + row, tl.where(kept, log_sum - goal, 0.0))
    if WITH_GRADIENT:
        for start in range(0, num_columns, LANES * VECTOR):
            mask = start + columns < num_columns
            x = tl.load(logits + start + columns, mask=mask, other=float("-inf")).to(tl.float32)
            slope = tl.exp(x - log_sum) - tl.where(start + columns == target, 1.0, 0.0)
            slope = tl.where(kept, slope, 0.0)
            tl.store(logits + start + columns, slope.to(logits.dtype.element_ty), mask=mask)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, losses, grad_hidden, grad_weight = output
    ctx.mark_non_differentiable(losses, grad_hidden, grad_weight)
    ctx.save_for_backward(grad_hidden, grad_weight)
    ctx.needed = inputs[6:8]


def _backward(ctx: Any, grad: Tensor, *_unused: Any) -> tuple[Any, ...]:
    grad_hidden, grad_weight = ctx.saved_tensors
    need_hidden, need_weight = ctx.needed
    # A 0-dimensional fp32 factor: the products are made in fp32 and rounded once.
    return (
        grad_hidden * grad if need_hidden else None,
        grad_weight * grad if need_weight else None,
        *[None] * 6,
    )


_linear_cross_entropy.register_autograd(_backward, setup_context=_setup)
