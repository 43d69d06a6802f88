"""The two parts of `token` routing beside its matrix products (model/soft_moe.py).

    route     C_tj = softmax over slots j of l_tj = (keys_j . x_t) / |x_t|       keys = s phi^
    combine   y_t = sum over experts k of C_tk silu(g_tk) u_tk,   g_tk = h_tk W3_k, u_tk = h_tk W4_k

T tokens, d hidden size, n experts of width h, S slots. Logits, softmax and sums are fp32.

Gradients of route:    dl = C (dC - sum_j C_j dC_j),   dkeys_j = sum_t dl_tj x_t / |x_t|,
                       dx = (sum_j dl_j keys_j) / |x| - x (sum_j dl_j l_j) / |x|^2.
Gradients of combine, with s = silu:  dC = sum over d of dy s(g) u,   du = C dy s(g),
                                      dg = C dy u s'(g).

Bytes. route: x read once, where eager makes fp32 copies; backward, x read twice and dx written.
combine: g and u (n T d each) written by the matrix products and read once; the sum over experts
stays in registers. Eager writes and reads their product too, and keeps silu(g) and a weighted copy
of h for the backward pass (docs/adr/0015 has the sums).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.triton_support import jit, on_device, power_of_2, tl

SHORTEST = 1e-12
"""Length below which a token counts as this long, so that a row of zeros divides nothing by 0."""

MOST_SLOTS = 256
"""Slots above which `route` is a matrix product worth the tensor cores, and goes the eager way."""

WIDEST = 32_768
"""Widest row that the kernel of `route` holds at once."""


def route_eager(x: Tensor, keys: Tensor) -> Tensor:
    """x [T, d], keys fp32 [S, d] -> fp32 [T, S], rows that sum to 1."""
    with torch.autocast(device_type=x.device.type, enabled=False):
        x = x.float()
        # Dividing the products instead of x spares a unit-length copy of x.
        length = x.norm(dim=-1, keepdim=True).clamp_min(SHORTEST)
        weights: Tensor = ((x @ keys.t()) / length).softmax(dim=-1)
        return weights


def combine_eager(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
    """hidden [T, n h], gate_out, up_out [n, h, d], weights [T, n] -> [T, d].

    The weight multiplies h before W4, where y is linear in it and h is narrower than y.
    """
    by_expert = _by_expert(hidden, len(gate_out))
    weighted = by_expert * weights.to(hidden.dtype).t().unsqueeze(-1)
    gate = torch.bmm(by_expert, gate_out)  # [n, T, d]
    up = torch.bmm(weighted, up_out)
    return (functional.silu(gate) * up).sum(dim=0)


def _by_expert(hidden: Tensor, num_experts: int) -> Tensor:
    """[T, n h] -> [n, T, h], a view."""
    return hidden.view(len(hidden), num_experts, -1).transpose(0, 1)


def route_triton(x: Tensor, keys: Tensor) -> Tensor:
    """As route_eager, reading x once."""
    if keys.shape[0] > MOST_SLOTS or x.shape[1] > WIDEST:
        return route_eager(x, keys)
    weights: Tensor = _route(x, keys)[0]
    return weights


def combine_triton(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
    """As combine_eager: torch's matrix products, and one kernel for all that follows them."""
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, gate_out, up_out = hidden.to(dtype), gate_out.to(dtype), up_out.to(dtype)
    y: Tensor = _Combine.apply(hidden, gate_out, up_out, weights)  # type: ignore[no-untyped-call]
    return y


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor
    ) -> Tensor:
        by_expert = _by_expert(hidden, len(gate_out))
        gate = torch.bmm(by_expert, gate_out)  # [n, T, d]
        up = torch.bmm(by_expert, up_out)
        ctx.save_for_backward(hidden, gate_out, up_out, weights, gate, up)
        y: Tensor = _weighted_swiglu(gate, up, weights)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, ...]:
        hidden, gate_out, up_out, weights, gate, up = ctx.saved_tensors
        grad_gate, grad_up, grad_weights = _weighted_swiglu_backward(grads[0], gate, up, weights)
        across = _by_expert(hidden, len(gate_out)).transpose(1, 2)  # [n, h, T]
        return (
            _hidden_gradient(grad_gate, gate_out, grad_up, up_out),
            torch.bmm(across, grad_gate),
            torch.bmm(across, grad_up),
            grad_weights,
        )


@torch.library.custom_op("steel::hidden_gradient", mutates_args=())
def _hidden_gradient(
    grad_gate: Tensor, gate_out: Tensor, grad_up: Tensor, up_out: Tensor
) -> Tensor:
    """grad_gate W3^T + grad_up W4^T, of [n, T, d] and [n, h, d] -> [T, n h].

    Both products go into one tensor in its final layout, without an addition or a copy afterwards:
    350 MB less to move in each layer at T = 16,384. An operator, since functionalisation under
    torch.compile cannot write through such a view.
    """
    num_experts, inner, _ = gate_out.shape
    hidden = grad_gate.new_empty((grad_gate.shape[1], num_experts * inner))
    by_expert = _by_expert(hidden, num_experts)
    by_expert.baddbmm_(grad_gate, gate_out.transpose(1, 2), beta=0)
    by_expert.baddbmm_(grad_up, up_out.transpose(1, 2))
    return hidden


@_hidden_gradient.register_fake
def _(grad_gate: Tensor, gate_out: Tensor, grad_up: Tensor, up_out: Tensor) -> Tensor:
    return grad_gate.new_empty((grad_gate.shape[1], gate_out.shape[0] * gate_out.shape[1]))


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
                SHORTEST,
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
                1 / SHORTEST,
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


@torch.library.custom_op("steel::weighted_swiglu", mutates_args=())
def _weighted_swiglu(gate: Tensor, up: Tensor, weights: Tensor) -> Tensor:
    """gate, up [n, T, d], weights [T, n] -> [T, d]"""
    gate, up, weights = gate.contiguous(), up.contiguous(), weights.contiguous()
    num_experts, num_tokens, width = gate.shape
    y = gate.new_empty((num_tokens, width))
    if y.numel():
        block = min(power_of_2(width), 2048)
        with on_device(y):
            _combine_kernel[(num_tokens, -(-width // block))](
                gate, up, weights, y, num_experts, num_tokens, width, BLOCK=block
            )
    return y


@_weighted_swiglu.register_fake
def _(gate: Tensor, up: Tensor, weights: Tensor) -> Tensor:
    return gate.new_empty(gate.shape[1:])


@torch.library.custom_op("steel::weighted_swiglu_backward", mutates_args=())
def _weighted_swiglu_backward(
    grad: Tensor, gate: Tensor, up: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gate, up and weights."""
    grad, gate, up, weights = (x.contiguous() for x in (grad, gate, up, weights))
    num_experts, num_tokens, width = gate.shape
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    grad_weights = torch.zeros_like(weights)
    if gate.numel():
        with on_device(gate):
            _combine_backward_kernel[(num_tokens,)](
                grad,
                gate,
                up,
                weights,
                grad_gate,
                grad_up,
                grad_weights,
                num_experts,
                num_tokens,
                width,
                BLOCK=min(power_of_2(width), 2048),
            )
    return grad_gate, grad_up, grad_weights


@_weighted_swiglu_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.contiguous_format
    return (
        torch.empty_like(gate, memory_format=like),
        torch.empty_like(up, memory_format=like),
        torch.empty_like(weights, memory_format=like),
    )


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
    # A token shorter than SHORTEST is divided by a constant, whose gradient is 0.
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


@jit
def _combine_kernel(  # type: ignore[no-untyped-def]
    gate_in, up_in, weights_in, y_out, num_experts, num_tokens, width, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for expert in range(num_experts):
        start = (expert * num_tokens + token) * width
        gate = tl.load(gate_in + start + columns, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(up_in + start + columns, mask=mask, other=0.0).to(tl.float32)
        weight = tl.load(weights_in + token * num_experts + expert).to(tl.float32)
        y += weight * (gate * tl.sigmoid(gate) * up)
    tl.store(y_out + token * width + columns, y.to(y_out.dtype.element_ty), mask=mask)


@jit
def _combine_backward_kernel(  # type: ignore[no-untyped-def]
    grad_in,
    gate_in,
    up_in,
    weights_in,
    grad_gate_out,
    grad_up_out,
    grad_weights_out,
    num_experts,
    num_tokens,
    width,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    for expert in range(num_experts):
        start = (expert * num_tokens + token) * width
        weight = tl.load(weights_in + token * num_experts + expert).to(tl.float32)
        grad_weight = tl.zeros((BLOCK,), dtype=tl.float32)
        for offset in range(0, width, BLOCK):
            places = offset + columns
            mask = places < width
            grad = tl.load(grad_in + token * width + places, mask=mask, other=0.0).to(tl.float32)
            gate = tl.load(gate_in + start + places, mask=mask, other=0.0).to(tl.float32)
            up = tl.load(up_in + start + places, mask=mask, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(gate)
            silu = gate * sigmoid
            grad_weight += grad * silu * up
            scaled = weight * grad
            grad_up = scaled * silu
            grad_gate = scaled * up * (sigmoid + silu * (1.0 - sigmoid))
            out = start + places
            tl.store(grad_up_out + out, grad_up.to(grad_up_out.dtype.element_ty), mask=mask)
            tl.store(grad_gate_out + out, grad_gate.to(grad_gate_out.dtype.element_ty), mask=mask)
        total = tl.sum(grad_weight, axis=0)
        tl.store(grad_weights_out + token * num_experts + expert, total)


def _route_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs, *output)


def _route_gradient(ctx: Any, grad: Tensor, *_unused: Any) -> tuple[Tensor, Tensor]:
    x, keys, weights, logits, inverse = ctx.saved_tensors
    grad_x, slopes = _route_backward(grad, x, keys, weights, logits, inverse)
    if x.is_cuda and x.dtype != torch.float32:
        grad_keys = torch.mm(slopes.t().to(x.dtype), x, out_dtype=torch.float32)
    else:
        grad_keys = torch.mm(slopes.t(), x.float())
    return grad_x, grad_keys.to(keys.dtype)


_route.register_autograd(_route_gradient, setup_context=_route_setup)
