"""Matrix products of linear layers in 8 bits: `precision: fp8`.

    y = x W^T         x, W in e4m3 (3 bits of fraction)
    dx = dy W         dy in e5m2 (2 bits, but the range that gradients need)
    dW = dy^T x

A tensor has one scale, by which its largest value becomes the largest of its 8-bit type. It is
found anew for each product, so there is no state to save, and a resumed run repeats every bit.
Products are summed in fp32 and given in the type of x; weights, optimizer and all between the
products are as in bf16. Only training computes so: validation, and whoever loads the published
model, computes in its own type.

In 8 bits: linear layers of the decoder's layers, and the first layers of Steel's experts. Not:
embedding and head, norms, routing, and the experts' second layers: their products give far larger
matrices than they are given, so that rounding those costs what it saves (docs/adr/0085).

Shapes: T = tokens, K = a layer's inputs, N = its outputs.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError
from model.soft_moe import Experts

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""Rows and columns of the tensor cores' 8-bit products: other layers stay as they are."""
LEAST = 1e-30
"""Largest values below it count as this one: a tensor of zeros has a finite scale."""
ROUTER = re.compile(r"(^|\.)(gate|\w*router\w*)(\.|$)")
"""Places of modules that choose among experts: linear layers, or what has some (`router.layer`)."""


def use_fp8(layers: Iterable[nn.Module]) -> int:
    """Let the products of these decoder layers compute in 8 bits in training mode.

    Parameters, their names and initial values stay as they are. Returns how many weights changed.
    Raises ConfigError where there is none.
    """
    number = 0
    for layer in layers:
        for name, module in layer.named_modules():
            if type(module) is nn.Linear and fits(module.weight) and not routes(name):
                module.__class__ = Fp8Linear
                number += 1
            elif type(module) is Experts and fits(module.gate_in):
                module.__class__ = Fp8Experts
                number += 2
    if not number:
        raise ConfigError(
            "pretrain: precision: fp8 finds no linear layer in this model whose rows and columns "
            f"are multiples of {MULTIPLE}: set precision: bf16, or other sizes in `model`"
        )
    return number


def fits(weight: Tensor) -> bool:
    """True if both sides of a weight [N, K] are what the tensor cores take."""
    return not any(size % MULTIPLE for size in weight.shape)


def routes(name: str) -> bool:
    """Return True if a module at this place chooses among experts, in any architecture."""
    return bool(ROUTER.search(name))


class Fp8Linear(nn.Linear):
    """A linear layer whose products are in 8 bits in training mode."""

    def forward(self, input: Tensor) -> Tensor:  # (torch's name)
        """[..., K] -> [..., N]"""
        product = fp8_linear if computes_in_fp8(self) else functional.linear
        return product(input, self.weight, self.bias)


def computes_in_fp8(layer: nn.Linear) -> bool:
    """True for a layer whose products are in 8 bits now."""
    return isinstance(layer, Fp8Linear) and layer.training


class Fp8Experts(Experts):
    """Experts whose first layers are in 8 bits in training mode."""

    def first_layer(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [T, d], weight [n h, d] -> [T, n h]"""
        return (fp8_linear if self.training else functional.linear)(x, weight)


def fp8_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K], weight [N, K], bias [N] -> [..., N], and gradients, by products in 8 bits.

    K and N are multiples of 16 where a GPU computes; the number of tokens may be any.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if not x.numel():  # an expert that no token was sent to: there is no largest value
        return functional.linear(x, weight, bias)
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight)  # type: ignore[no-untyped-call]
    y = y.view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in 8 bits, and the fp32 scalar that multiplies it back.

    A value that is not finite makes all of them NaN, so that it shows in the loss.
    """
    low, high = x.aminmax()
    largest = torch.maximum(-low, high).float().clamp_min(LEAST)
    limit = torch.finfo(dtype).max
    return (x.float() * (limit / largest)).to(dtype), largest / limit


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = len(x)
        x_small, x_scale = quantise(_whole_tiles(x), FORWARD)
        weight_small, weight_scale = quantise(weight, FORWARD)
        ctx.save_for_backward(x_small, x_scale, weight_small, weight_scale)
        ctx.dtypes = (x.dtype, weight.dtype)
        y = _multiply(x_small, weight_small.t(), x_scale, weight_scale, x.dtype, fast=True)
        return y[:rows]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
        x_small, x_scale, weight_small, weight_scale = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        (grad,) = grads
        rows = len(grad)
        small, scale = quantise(_whole_tiles(grad), GRADIENT)
        dx = _multiply(small, _by_columns(weight_small), scale, weight_scale, x_dtype, fast=False)
        dw = _multiply(
            small.t().contiguous(), _by_columns(x_small), scale, x_scale, weight_dtype, fast=False
        )
        return dx[:rows], dw


def _multiply(
    left: Tensor,
    right: Tensor,
    left_scale: Tensor,
    right_scale: Tensor,
    dtype: torch.dtype,
    *,
    fast: bool,
) -> Tensor:
    """left [A, B] in rows, right [B, C] in columns, as Hopper wants them -> [A, C].

    fast: sum up to 32 products in fewer bits, which a gradient should not.
    """
    return torch._scaled_mm(
        left, right, scale_a=left_scale, scale_b=right_scale, out_dtype=dtype, use_fast_accum=fast
    )


def _by_columns(x: Tensor) -> Tensor:
    """The same matrix, a column's values one after the other."""
    return x.t().contiguous().t()


def _whole_tiles(x: Tensor) -> Tensor:
    """x [T, K], with rows of zeros up to a multiple of 16: dW sums over them."""
    missing = -len(x) % MULTIPLE
    return functional.pad(x, (0, 0, 0, missing)) if missing else x
