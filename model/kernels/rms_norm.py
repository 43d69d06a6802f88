"""Root-mean-square normalisation (Zhang and Sennrich 2019), alone and after a residual addition.

    y = w x r,   r = 1 / sqrt(mean(x^2) + eps), mean over the last axis          [add: x = a + b]

Gradients, with g = w dy:   dx = r (g - x r^2 mean(g x)),   dw = sum over rows of dy x r.

The statistics are fp32; y has x's type. The Triton kernels take a tile of whole rows at a time, so
that x is read once; dw is summed by few programs that each walk through many rows.
Bytes, forward: x read, y written. Backward: x and dy read, dx written. With the addition two more
tensors are read or written forward (a, b in; sum, y out) and one more backward.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.triton_support import jit, num_programs, on_device, power_of_2, tl

MAX_WIDTH = 32_768
"""Widest row that the Triton kernels hold at once; wider ones use the eager reference."""


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


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As rms_norm_eager, by torch's own operator, which is fused on GPUs."""
    return torch.nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def add_rms_norm_torch(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As add_rms_norm_eager, in two kernels: torch has none for both."""
    total = x + residual
    return rms_norm_torch(total, weight, eps), total


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As rms_norm_eager, in one kernel."""
    if x.shape[-1] > MAX_WIDTH:
        return rms_norm_eager(x, weight, eps)
    y: Tensor = _rms_norm(x, weight, eps)[0]
    return y


def add_rms_norm_triton(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As add_rms_norm_eager, in one kernel; under autocast a bf16 x meets an fp32 residual."""
    if x.shape[-1] > MAX_WIDTH or x.shape != residual.shape:
        return add_rms_norm_eager(x, residual, weight, eps)
    wider = torch.promote_types(x.dtype, residual.dtype)
    x, residual = x.to(wider), residual.to(wider)
    y, total, _ = _add_rms_norm(x, residual, weight, eps)
    return y, total


@torch.library.custom_op("steel::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y like x, and r fp32 [rows] for the backward pass."""
    x = x.contiguous()
    y = torch.empty_like(x)
    inverse = x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)
    _launch_forward(x, None, weight, y, None, inverse, eps)
    return y, inverse


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)


@torch.library.custom_op("steel::add_rms_norm", mutates_args=())
def _add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y and x + residual, like x, and r fp32 [rows]."""
    x, residual = x.contiguous(), residual.contiguous()
    y, total = torch.empty_like(x), torch.empty_like(x)
    inverse = x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)
    _launch_forward(x, residual, weight, y, total, inverse, eps)
    return y, total, inverse


@_add_rms_norm.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, torch.empty_like(y), x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)


@torch.library.custom_op("steel::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    grad: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """dx (plus grad_total, the gradient of the sum that bypasses the norm) and dw."""
    grad, x = grad.contiguous(), x.contiguous()
    grad_total = None if grad_total is None else grad_total.contiguous()
    width, rows = x.shape[-1], inverse.numel()
    grad_x = torch.empty_like(x)
    if rows == 0:
        return grad_x, torch.zeros_like(weight)
    block, tile = _tile(width)
    # Two programs of 16 warps and 64 registers a thread fill a multiprocessor, and leave few parts.
    programs = num_programs(x, per_processor=2, at_most=-(-rows // tile))
    rows_each = -(-rows // programs)
    parts = x.new_empty((programs, width), dtype=torch.float32)
    with on_device(x):
        _backward_kernel[(programs,)](
            grad,
            grad if grad_total is None else grad_total,
            x,
            weight,
            inverse,
            grad_x,
            parts,
            rows,
            rows_each,
            width,
            HAS_TOTAL=grad_total is not None,
            TILE=tile,
            BLOCK=block,
            num_warps=16,
        )
    return grad_x, parts.sum(dim=0).to(weight.dtype)


@_rms_norm_backward.register_fake
def _(
    grad: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return grad_x, torch.empty_like(weight)


def _tile(width: int) -> tuple[int, int]:
    """Columns (all of a row, rounded up) and rows of a tile: about 4,096 elements."""
    block = power_of_2(width)
    return block, max(1, 4096 // max(block, 128))


def _launch_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    y: Tensor,
    total: Tensor | None,
    inverse: Tensor,
    eps: float,
) -> None:
    block, tile = _tile(x.shape[-1])
    rows = inverse.numel()
    if rows == 0:
        return
    with on_device(x):
        _forward_kernel[(-(-rows // tile),)](
            x,
            x if residual is None else residual,
            weight,
            y,
            y if total is None else total,
            inverse,
            rows,
            x.shape[-1],
            eps,
            HAS_RESIDUAL=residual is not None,
            TILE=tile,
            BLOCK=block,
            num_warps=8,
        )


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_in,
    residual_in,
    weight_in,
    y_out,
    total_out,
    inverse_out,
    num_rows,
    width,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    columns = tl.arange(0, BLOCK)
    in_rows = rows < num_rows
    in_columns = columns < width
    mask = in_rows[:, None] & in_columns[None, :]
    places = rows.to(tl.int64)[:, None] * width + columns[None, :]
    x = tl.load(x_in + places, mask=mask, other=0.0)
    if HAS_RESIDUAL:
        # Rounded to the stream's type first: the norm must see the values that the next layer sees.
        x = (x.to(tl.float32) + tl.load(residual_in + places, mask=mask, other=0.0)).to(x.dtype)
        tl.store(total_out + places, x, mask=mask)
    x = x.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x, axis=1) / width + eps)
    weight = tl.load(weight_in + columns, mask=in_columns, other=0.0).to(tl.float32)
    y = x * inverse[:, None] * weight[None, :]
    tl.store(y_out + places, y.to(y_out.dtype.element_ty), mask=mask)
    tl.store(inverse_out + rows, inverse, mask=in_rows)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_in,
    grad_total_in,
    x_in,
    weight_in,
    inverse_in,
    grad_x_out,
    parts_out,
    num_rows,
    rows_each,
    width,
    HAS_TOTAL: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    in_columns = columns < width
    weight = tl.load(weight_in + columns, mask=in_columns, other=0.0).to(tl.float32)
    part = tl.zeros((BLOCK,), dtype=tl.float32)
    first = program * rows_each
    last = tl.minimum(first + rows_each, num_rows)
    for start in range(first, last, TILE):
        rows = start + tl.arange(0, TILE)
        in_rows = rows < last
        mask = in_rows[:, None] & in_columns[None, :]
        places = rows.to(tl.int64)[:, None] * width + columns[None, :]
        x = tl.load(x_in + places, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_in + places, mask=mask, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_in + rows, mask=in_rows, other=0.0)
        normed = x * inverse[:, None]
        weighted = grad * weight[None, :]
        shared = tl.sum(weighted * normed, axis=1) / width
        grad_x = inverse[:, None] * (weighted - normed * shared[:, None])
        if HAS_TOTAL:
            grad_x += tl.load(grad_total_in + places, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_out + places, grad_x.to(grad_x_out.dtype.element_ty), mask=mask)
        part += tl.sum(grad * normed, axis=0)
    tl.store(parts_out + program * width + columns, part, mask=in_columns)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _backward(ctx: Any, grad: Tensor, _inverse: Any) -> tuple[Any, ...]:
    x, weight, inverse = ctx.saved_tensors
    return (*_rms_norm_backward(grad, None, x, weight, inverse), None)


def _add_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, total, inverse = output
    ctx.mark_non_differentiable(inverse)
    ctx.save_for_backward(total, inputs[2], inverse)


def _add_backward(ctx: Any, grad: Tensor, grad_total: Tensor, _inverse: Any) -> tuple[Any, ...]:
    total, weight, inverse = ctx.saved_tensors
    grad_x, grad_weight = _rms_norm_backward(grad, grad_total, total, weight, inverse)
    return grad_x, grad_x, grad_weight, None


_rms_norm.register_autograd(_backward, setup_context=_setup)
_add_rms_norm.register_autograd(_add_backward, setup_context=_add_setup)
