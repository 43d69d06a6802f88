"""Soft MoE's sum over experts in `token` mode (model/soft_moe.py), with their second layers.

    y_t = sum over experts k of C_tk silu(g_tk) u_tk,       g_tk = h_tk W3_k,   u_tk = h_tk W4_k

T tokens, d hidden size, n experts of width h. Sums are fp32.

Gradients:    dC = sum over d of dy silu(g) u,    du = C dy silu(g),    dg = C dy u silu'(g),
              dh = dg W3^T + du W4^T.

Bytes: g and u (n T d each) are written by the matrix products and read once; the sum over experts
stays in registers. The eager reference also writes and reads their product, and keeps silu(g) and a
weighted copy of h for the backward pass (sums of bytes: docs/adr/0015).

`combine_halves` takes W3 and W4 of an expert side by side, as one matrix [h, 2d]: one product gives
g and u side by side, and in the backward pass one gives dh and one both weights' gradients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.triton_support import jit, on_device, power_of_2, tl


def combine_eager(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
    """hidden [T, n h], gate_out, up_out [n, h, d], weights [T, n] -> [T, d].

    The weight multiplies h before W4, where y is linear in it and h is narrower than y.
    """
    by_expert = _by_expert(hidden, len(gate_out))
    weighted = by_expert * weights.to(hidden.dtype).t().unsqueeze(-1)
    gate = torch.bmm(by_expert, gate_out)  # [n, T, d]
    up = torch.bmm(weighted, up_out)
    return (functional.silu(gate) * up).sum(dim=0)


def combine_halves_eager(hidden: Tensor, gate_up_out: Tensor, weights: Tensor) -> Tensor:
    """hidden [T, n h], gate_up_out [n, h, 2d], weights [T, n] -> [T, d]."""
    gate, up = torch.bmm(_by_expert(hidden, len(gate_up_out)), gate_up_out).chunk(2, dim=-1)
    weighted = up * weights.to(hidden.dtype).t().unsqueeze(-1)
    return (functional.silu(gate) * weighted).sum(dim=0)


def _by_expert(hidden: Tensor, num_experts: int) -> Tensor:
    """[T, n h] -> [n, T, h], a view."""
    return hidden.view(len(hidden), num_experts, -1).transpose(0, 1)


def combine_triton(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
    """As combine_eager: torch's matrix products, then one kernel for everything else."""
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, gate_out, up_out = hidden.to(dtype), gate_out.to(dtype), up_out.to(dtype)
    y: Tensor = _Combine.apply(hidden, gate_out, up_out, weights)  # type: ignore[no-untyped-call]
    return y


def combine_halves_triton(hidden: Tensor, gate_up_out: Tensor, weights: Tensor) -> Tensor:
    """As combine_halves_eager."""
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, gate_up_out = hidden.to(dtype), gate_up_out.to(dtype)
    y: Tensor = _CombineHalves.apply(hidden, gate_up_out, weights)  # type: ignore[no-untyped-call]
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
            _hidden_gradient([grad_gate, grad_up], [gate_out, up_out]),
            torch.bmm(across, grad_gate),
            torch.bmm(across, grad_up),
            grad_weights,
        )


class _CombineHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate_up_out: Tensor, weights: Tensor) -> Tensor:
        both = torch.bmm(_by_expert(hidden, len(gate_up_out)), gate_up_out)  # [n, T, 2d]
        ctx.save_for_backward(hidden, gate_up_out, weights, both)
        y: Tensor = _weighted_swiglu_halves(both, weights)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, ...]:
        hidden, gate_up_out, weights, both = ctx.saved_tensors
        grad_both, grad_weights = _weighted_swiglu_halves_backward(grads[0], both, weights)
        across = _by_expert(hidden, len(gate_up_out)).transpose(1, 2)  # [n, h, T]
        return (
            _hidden_gradient([grad_both], [gate_up_out]),
            torch.bmm(across, grad_both),
            grad_weights,
        )


@torch.library.custom_op("steel::hidden_gradient", mutates_args=())
def _hidden_gradient(grads: list[Tensor], weights: list[Tensor]) -> Tensor:
    """grad_gate W3^T + grad_up W4^T, of [n, T, d] and [n, h, d] -> [T, n h]; or one such product.

    Both products go into one tensor in its final layout, without an addition or a copy afterwards:
    350 MB less to move in each layer at T = 16,384. An operator, since functionalisation under
    torch.compile cannot write through such a view.
    """
    hidden = _empty_hidden(grads[0], weights[0])
    by_expert = _by_expert(hidden, len(weights[0]))
    for number, (grad, weight) in enumerate(zip(grads, weights, strict=True)):
        by_expert.baddbmm_(grad, weight.transpose(1, 2), beta=min(number, 1))
    return hidden


@_hidden_gradient.register_fake
def _(grads: list[Tensor], weights: list[Tensor]) -> Tensor:
    return _empty_hidden(grads[0], weights[0])


def _empty_hidden(grad: Tensor, weight: Tensor) -> Tensor:
    return grad.new_empty((grad.shape[1], weight.shape[0] * weight.shape[1]))


@torch.library.custom_op("steel::weighted_swiglu", mutates_args=())
def _weighted_swiglu(gate: Tensor, up: Tensor, weights: Tensor) -> Tensor:
    """gate, up [n, T, d], weights [T, n] -> [T, d]"""
    return _launch_forward(gate.contiguous(), up.contiguous(), weights)


@_weighted_swiglu.register_fake
def _(gate: Tensor, up: Tensor, weights: Tensor) -> Tensor:
    return gate.new_empty(gate.shape[1:])


@torch.library.custom_op("steel::weighted_swiglu_halves", mutates_args=())
def _weighted_swiglu_halves(both: Tensor, weights: Tensor) -> Tensor:
    """both [n, T, 2d], weights [T, n] -> [T, d]"""
    gate, up = both.contiguous().chunk(2, dim=-1)
    return _launch_forward(gate, up, weights)


@_weighted_swiglu_halves.register_fake
def _(both: Tensor, weights: Tensor) -> Tensor:
    return both.new_empty((both.shape[1], both.shape[2] // 2))


@torch.library.custom_op("steel::weighted_swiglu_backward", mutates_args=())
def _weighted_swiglu_backward(
    grad: Tensor, gate: Tensor, up: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gate, up and weights."""
    gate, up = gate.contiguous(), up.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    grad_weights = _launch_backward(grad, gate, up, weights, grad_gate, grad_up)
    return grad_gate, grad_up, grad_weights


@_weighted_swiglu_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_contiguous(gate), _empty_contiguous(up), _empty_contiguous(weights)


@torch.library.custom_op("steel::weighted_swiglu_halves_backward", mutates_args=())
def _weighted_swiglu_halves_backward(
    grad: Tensor, both: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up, side by side, and of weights."""
    both = both.contiguous()
    grad_both = torch.empty_like(both)
    halves = (*both.chunk(2, dim=-1), weights, *grad_both.chunk(2, dim=-1))
    return grad_both, _launch_backward(grad, *halves)


@_weighted_swiglu_halves_backward.register_fake
def _(grad: Tensor, both: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return _empty_contiguous(both), _empty_contiguous(weights)


def _empty_contiguous(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _launch_forward(gate: Tensor, up: Tensor, weights: Tensor) -> Tensor:
    """gate, up [n, T, d]: contiguous, or the halves of a contiguous tensor."""
    weights = weights.contiguous()
    num_experts, num_tokens, width = gate.shape
    y = gate.new_empty((num_tokens, width))
    if y.numel():
        block = min(power_of_2(width), 2048)
        with on_device(y):
            _combine_kernel[(num_tokens, -(-width // block))](
                gate, up, weights, y, num_experts, num_tokens, width, gate.stride(1), BLOCK=block
            )
    return y


def _launch_backward(
    grad: Tensor, gate: Tensor, up: Tensor, weights: Tensor, grad_gate: Tensor, grad_up: Tensor
) -> Tensor:
    """Fill grad_gate and grad_up, laid out as gate and up; return the gradient of weights."""
    grad, weights = grad.contiguous(), weights.contiguous()
    num_experts, num_tokens, width = gate.shape
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
                gate.stride(1),
                BLOCK=min(power_of_2(width), 2048),
            )
    return grad_weights


@jit
def _combine_kernel(  # type: ignore[no-untyped-def]
    gate_in, up_in, weights_in, y_out, num_experts, num_tokens, width, row, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for expert in range(num_experts):
        start = (expert * num_tokens + token) * row
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
    row,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    for expert in range(num_experts):
        start = (expert * num_tokens + token) * row
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
