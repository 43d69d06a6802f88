"""SwiGLU's elementwise part (Shazeer 2020): y = silu(gate) * up, with silu(z) = z sigmoid(z).

Gradients, with s = sigmoid(gate):   dgate = dy up s (1 + gate (1 - s)),   dup = dy gate s.

Bytes, forward: gate and up read, y written. Backward: three tensors read, two written; nothing but
gate and up is kept for it, where eager autograd also keeps silu(gate).

`swiglu_halves` is the same of one matrix product that gives gate and up side by side: rows of 2h
numbers, the first h of which are the gate. Both gradients are written side by side too, ready for
one product each with the input and the weights (model/merged_products.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.triton_support import jit, on_device, tl

BLOCK = 2048
"""Elements of a program: 16 for each of its 128 threads."""


def swiglu_eager(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [...] -> [...]"""
    return functional.silu(gate) * up


def swiglu_halves_eager(both: Tensor) -> Tensor:
    """both [..., 2h], gate and up side by side -> [..., h]"""
    return swiglu_eager(*both.chunk(2, dim=-1))


def swiglu_triton(gate: Tensor, up: Tensor) -> Tensor:
    """As swiglu_eager, for two tensors of one shape and type."""
    y: Tensor = _swiglu(gate, up)
    return y


def swiglu_halves_triton(both: Tensor) -> Tensor:
    """As swiglu_halves_eager."""
    y: Tensor = _swiglu_halves(both)
    return y


@torch.library.custom_op("steel::swiglu", mutates_args=())
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    _launch_forward(gate, up, y, halves=False)
    return y


@_swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    assert gate.shape == up.shape, (gate.shape, up.shape)
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@torch.library.custom_op("steel::swiglu_backward", mutates_args=())
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    _launch_backward(grad, gate, up, grad_gate, grad_up, halves=False)
    return grad_gate, grad_up


@_swiglu_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad_gate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    return grad_gate, torch.empty_like(grad_gate)


@torch.library.custom_op("steel::swiglu_halves", mutates_args=())
def _swiglu_halves(both: Tensor) -> Tensor:
    y = _empty_half(both)
    gate, up = both.contiguous().chunk(2, dim=-1)
    _launch_forward(gate, up, y, halves=True)
    return y


@_swiglu_halves.register_fake
def _(both: Tensor) -> Tensor:
    assert both.shape[-1] % 2 == 0, both.shape
    return _empty_half(both)


@torch.library.custom_op("steel::swiglu_halves_backward", mutates_args=())
def _swiglu_halves_backward(grad: Tensor, both: Tensor) -> Tensor:
    grad, both = grad.contiguous(), both.contiguous()
    grad_both = torch.empty_like(both)
    halves = (*both.chunk(2, dim=-1), *grad_both.chunk(2, dim=-1))
    _launch_backward(grad, *halves, halves=True)
    return grad_both


@_swiglu_halves_backward.register_fake
def _(grad: Tensor, both: Tensor) -> Tensor:
    return torch.empty_like(both, memory_format=torch.contiguous_format)


def _empty_half(both: Tensor) -> Tensor:
    return both.new_empty((*both.shape[:-1], both.shape[-1] // 2))


def _launch_forward(gate: Tensor, up: Tensor, y: Tensor, *, halves: bool) -> None:
    """gate and up: contiguous, or the halves of a contiguous tensor."""
    if y.numel():
        with on_device(y):
            _forward_kernel[(-(-y.numel() // BLOCK),)](
                gate, up, y, y.numel(), **_layout(y, halves), BLOCK=BLOCK
            )


def _launch_backward(
    grad: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor, *, halves: bool
) -> None:
    """The gradients are laid out as gate and up."""
    if grad.numel():
        with on_device(grad):
            _backward_kernel[(-(-grad.numel() // BLOCK),)](
                grad,
                gate,
                up,
                grad_gate,
                grad_up,
                grad.numel(),
                **_layout(grad, halves),
                BLOCK=BLOCK,
            )


def _layout(y: Tensor, halves: bool) -> dict[str, int | bool]:
    return {"WIDTH": y.shape[-1] if halves else 0, "WIDE": 2 * y.numel() >= 2**31}


@jit
def _places(WIDTH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Places of a program in the output, and in gate and up. WIDTH: of a half, 0 for two tensors;
    known to the compiler, which then divides by multiplying and still loads vectors."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    places = program * BLOCK + tl.arange(0, BLOCK)
    sources = places
    if WIDTH > 0:
        sources = places + places // WIDTH * WIDTH
    return places, sources


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    gate_in, up_in, y_out, size, WIDTH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    places, sources = _places(WIDTH, WIDE, BLOCK)
    mask = places < size
    gate = tl.load(gate_in + sources, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_in + sources, mask=mask, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_out + places, y.to(y_out.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_in,
    gate_in,
    up_in,
    grad_gate_out,
    grad_up_out,
    size,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    places, sources = _places(WIDTH, WIDE, BLOCK)
    mask = places < size
    grad = tl.load(grad_in + places, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_in + sources, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_in + sources, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    grad_gate = grad * up * (sigmoid + silu * (1.0 - sigmoid))
    grad_up = grad * silu
    tl.store(grad_gate_out + sources, grad_gate.to(grad_gate_out.dtype.element_ty), mask=mask)
    tl.store(grad_up_out + sources, grad_up.to(grad_up_out.dtype.element_ty), mask=mask)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    return _swiglu_backward(grad, *ctx.saved_tensors)


_swiglu.register_autograd(_backward, setup_context=_setup)


def _setup_halves(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_halves(ctx: Any, grad: Tensor) -> Any:
    return _swiglu_halves_backward(grad, *ctx.saved_tensors)


_swiglu_halves.register_autograd(_backward_halves, setup_context=_setup_halves)
