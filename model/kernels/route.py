"""Routing weights of Soft MoE in `token` mode (model/soft_moe.py): a softmax over slots.

    C_tj = softmax over slots j of l_tj = (keys_j . x_t) / |x_t|                keys = s phi^

T tokens, d hidden size, S slots. Everything is fp32, whatever x is.

Gradients:    dl = C (dC - sum_j C_j dC_j),    dkeys_j = sum_t dl_tj x_t / |x_t|,
              dx = (sum_j dl_j keys_j) / |x| - x (sum_j dl_j l_j) / |x|^2.

Bytes: x read once, where the eager reference makes fp32 copies; backward, x read twice (for dx and
for dkeys, a matrix product) and dx written.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.triton_support import jit, on_device, power_of_2, tl

MIN_NORM = 1e-12
"""Lower bound of a token's length, so that nothing is divided by 0 for a row of zeros."""

MAX_SLOTS = 256
"""Slots above which the eager reference, a matrix product on tensor cores, is faster."""

MAX_WIDTH = 32_768
"""Widest row that the kernel holds at once; wider ones use the eager reference."""


def route_eager(x: Tensor, keys: Tensor) -> Tensor:
    """x [T, d], keys fp32 [S, d] -> fp32 [T, S], rows that sum to 1."""
    with torch.autocast(device_type=x.device.type, enabled=False):
        x = x.float()
        # Dividing the products instead of x spares a unit-length copy of x.
        length = x.norm(dim=-1, keepdim=True).clamp_min(MIN_NORM)
        weights: Tensor = ((x @ keys.t()) / length).softmax(dim=-1)
        return weights


def route_triton(x: Tensor, keys: Tensor) -> Tensor:
    """As route_eager, reading x once."""
    if keys.shape[0] > MAX_SLOTS or x.shape[1] > MAX_WIDTH:
        return route_eager(x, keys)
    weights: Tensor = _route(x, keys)[0]
    return weights


@torch.library.custom_op("steel::route", mutates_args=())
def _route(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and logits [T, S], and 1 / |x| [T], all fp32."""
    x, keys = x.contiguous(), keys.float().contiguous()
    weights, logits, inverse = _route_outputs(x, keys)
    if weights.numel():
        block, tile = _tile(x.shape[1])
        with on_device(x):
            _route_kernel[(-(-len(x) // tile),)](
                x,
                keys,
                weights,
                logits,
                inverse,
                *x.shape,
                len(keys),
                MIN_NORM,
                SLOTS=power_of_2(len(keys)),
                TILE=tile,
                BLOCK=block,
                num_warps=16,
            )
    return weights, logits, inverse


def _route_outputs(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = x.new_empty((x.shape[0], keys.shape[0]), dtype=torch.float32)
    return weights, torch.empty_like(weights), x.new_empty(x.shape[:1], dtype=torch.float32)


@_route.register_fake
def _(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _route_outputs(x, keys)


@torch.library.custom_op("steel::route_backward", mutates_args=())
def _route_backward(
    grad: Tensor, x: Tensor, keys: Tensor, weights: Tensor, logits: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """dx like x, and dl / |x|, fp32 [T, S]."""
    grad, x, keys = grad.contiguous(), x.contiguous(), keys.float().contiguous()
    grad_x, slopes = torch.empty_like(x), torch.empty_like(weights)
    if slopes.numel():
        block, tile = _tile(x.shape[1])
        with on_device(x):
            _route_backward_kernel[(-(-len(x) // tile),)](
                grad,
                x,
                keys,
                weights,
                logits,
                inverse,
                grad_x,
                slopes,
                *x.shape,
                len(keys),
                1 / MIN_NORM,
                SLOTS=power_of_2(len(keys)),
                TILE=tile,
                BLOCK=block,
                num_warps=16,
            )
    return grad_x, slopes


@_route_backward.register_fake
def _(
    grad: Tensor, x: Tensor, keys: Tensor, weights: Tensor, logits: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(weights)


def _tile(width: int) -> tuple[int, int]:
    """Columns (all of a row, rounded up) and rows of a tile: about 8,192 elements."""
    block = power_of_2(width)
    return block, max(1, 8192 // max(block, 128))


@jit
def _route_kernel(  # type: ignore[no-untyped-def]
    x_in,
    keys_in,
    weights_out,
    logits_out,
    inverse_out,
    num_rows,
    width,
    num_slots,
    shortest,
    SLOTS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    columns = tl.arange(0, BLOCK)
    slots = tl.arange(0, SLOTS)
    in_rows = rows < num_rows
    in_columns = columns < width
    places = rows.to(tl.int64)[:, None] * width + columns[None, :]
    x = tl.load(x_in + places, mask=in_rows[:, None] & in_columns[None, :], other=0.0)
    x = x.to(tl.float32)
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), shortest)
    logits = tl.full((TILE, SLOTS), float("-inf"), dtype=tl.float32)
    for slot in range(num_slots):
        key = tl.load(keys_in + slot * width + columns, mask=in_columns, other=0.0)
        logit = tl.sum(x * key[None, :], axis=1) * inverse
        logits = tl.where(slots[None, :] == slot, logit[:, None], logits)
    raised = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    weights = raised / tl.sum(raised, axis=1)[:, None]
    out = rows[:, None] * num_slots + slots[None, :]
    mask = in_rows[:, None] & (slots < num_slots)[None, :]
    tl.store(weights_out + out, weights, mask=mask)
    tl.store(logits_out + out, logits, mask=mask)
    tl.store(inverse_out + rows, inverse, mask=in_rows)


@jit
def _route_backward_kernel(  # type: ignore[no-untyped-def]
    grad_in,
    x_in,
    keys_in,
    weights_in,
    logits_in,
    inverse_in,
    grad_x_out,
    slopes_out,
    num_rows,
    width,
    num_slots,
    largest_inverse,
    SLOTS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    columns = tl.arange(0, BLOCK)
    slots = tl.arange(0, SLOTS)
    in_rows = rows < num_rows
    in_columns = columns < width
    small = rows[:, None] * num_slots + slots[None, :]
    small_mask = in_rows[:, None] & (slots < num_slots)[None, :]
    weights = tl.load(weights_in + small, mask=small_mask, other=0.0)
    logits = tl.load(logits_in + small, mask=small_mask, other=0.0)
    grad = tl.load(grad_in + small, mask=small_mask, other=0.0)
    inverse = tl.load(inverse_in + rows, mask=in_rows, other=0.0)
    slopes = weights * (grad - tl.sum(weights * grad, axis=1)[:, None])
    tl.store(slopes_out + small, slopes * inverse[:, None], mask=small_mask)
    # A token shorter than MIN_NORM is divided by a constant, whose gradient is 0.
    along = tl.sum(slopes * logits, axis=1) * inverse * inverse
    along = tl.where(inverse < largest_inverse, along, 0.0)
    places = rows.to(tl.int64)[:, None] * width + columns[None, :]
    mask = in_rows[:, None] & in_columns[None, :]
    x = tl.load(x_in + places, mask=mask, other=0.0).to(tl.float32)
    grad_x = -x * along[:, None]
    for slot in range(num_slots):
        key = tl.load(keys_in + slot * width + columns, mask=in_columns, other=0.0)
        slope = tl.sum(tl.where(slots[None, :] == slot, slopes, 0.0), axis=1) * inverse
        grad_x += slope[:, None] * key[None, :]
    tl.store(grad_x_out + places, grad_x.to(grad_x_out.dtype.element_ty), mask=mask)


def _route_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs, *output)


def _route_gradient(ctx: Any, grad: Tensor, *_unused: Any) -> tuple[Tensor, Tensor]:
    x, keys, weights, logits, inverse = ctx.saved_tensors
    grad_x, slopes = _route_backward(grad, x, keys, weights, logits, inverse)
    if x.is_cuda and x.dtype != torch.float32:
        # Rows as long as the batch: as a view they would begin every few slots, where no matrix
        # product loads in vectors.
        narrow = slopes.t().to(x.dtype, memory_format=torch.contiguous_format)
        grad_keys = torch.mm(narrow, x, out_dtype=torch.float32)
    else:
        grad_keys = torch.mm(slopes.t(), x.float())
    return grad_x, grad_keys.to(keys.dtype)


_route.register_autograd(_route_gradient, setup_context=_route_setup)
