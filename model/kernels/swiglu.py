"""SwiGLU's elementwise part (Shazeer 2020): y = silu(gate) * up, with silu(z) = z sigmoid(z).

Gradients, with s = sigmoid(gate):   dgate = dy up s (1 + gate (1 - s)),   dup = dy gate s.

Bytes, forward: gate and up read, y written. Backward: three tensors read, two written; nothing but
gate and up is kept for it, where eager autograd also keeps silu(gate).
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


def swiglu_triton(gate: Tensor, up: Tensor) -> Tensor:
    """As swiglu_eager, for two tensors of one shape and type."""
    y: Tensor = _swiglu(gate, up)
    return y


@torch.library.custom_op("steel::swiglu", mutates_args=())
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    if y.numel():
        with on_device(y):
            _forward_kernel[(-(-y.numel() // BLOCK),)](gate, up, y, y.numel(), BLOCK=BLOCK)
    return y


@_swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    assert gate.shape == up.shape, (gate.shape, up.shape)
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@torch.library.custom_op("steel::swiglu_backward", mutates_args=())
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    size = gate.numel()
    if size:
        with on_device(gate):
            _backward_kernel[(-(-size // BLOCK),)](
                grad, gate, up, grad_gate, grad_up, size, BLOCK=BLOCK
            )
    return grad_gate, grad_up


@_swiglu_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad_gate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    return grad_gate, torch.empty_like(grad_gate)


@jit
def _forward_kernel(gate_in, up_in, y_out, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = places < size
    gate = tl.load(gate_in + places, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_in + places, mask=mask, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_out + places, y.to(y_out.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_in, gate_in, up_in, grad_gate_out, grad_up_out, size, BLOCK: tl.constexpr
):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = places < size
    grad = tl.load(grad_in + places, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_in + places, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_in + places, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    grad_gate = grad * up * (sigmoid + silu * (1.0 - sigmoid))
    grad_up = grad * silu
    tl.store(grad_gate_out + places, grad_gate.to(grad_gate_out.dtype.element_ty), mask=mask)
    tl.store(grad_up_out + places, grad_up.to(grad_up_out.dtype.element_ty), mask=mask)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    return _swiglu_backward(grad, *ctx.saved_tensors)


_swiglu.register_autograd(_backward, setup_context=_setup)
