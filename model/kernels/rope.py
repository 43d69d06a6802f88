"""Rotary positions (Su et al. 2021): rotate pair (x_i, x_{i + d/2}) by position * theta^(-2i/d).

    a = x[..., :d/2], b = x[..., d/2:]      y = [a cos - b sin, b cos + a sin]

Angles, sines and the rotation itself are fp32 even when the model computes in bf16 (paper, section
3: at position 2,000 a bf16 angle is off by up to 4 radians); the result has x's type. The gradient
is the rotation by the opposite angle, so nothing but the angles is kept for it.

The Triton kernel rotates query and key in one launch. Its programs divide the flat list of pairs,
not heads padded to a power of two, so a head of 56 costs exactly 28 pairs. Bytes: each element read
once and written once.

`rope_qkv` takes queries, keys and values side by side, as one matrix product gives them (model/
merged_products.py). Values are not copied: they stay where they are, and so keep the product alive.
The three gradients are written side by side, ready for one product each.
"""

import math
from typing import Any

import torch
from torch import Tensor

from model.kernels.triton_support import jit, on_device, tl

BLOCK = 1024
"""Pairs of a program."""


def rope_angles(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each fp32 [B, 1, M, head_dim / 2], of position_ids [B, M].

    Computed anew from three numbers instead of kept in a buffer: buffers are cast to bf16 by
    `model.to`, and are uninitialised memory after loading on the meta device.
    """
    with torch.autocast(device_type=position_ids.device.type, enabled=False):
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
        frequencies = theta ** (-exponents / head_dim)
        angles = position_ids.float().unsqueeze(-1) * frequencies
        return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rope_eager(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate query [B, heads, M, d] and key [B, key heads, M, d]; cos, sin [B or 1, 1, M, d/2]."""
    return _rotate_halves(query, cos, sin), _rotate_halves(key, cos, sin)


def _rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def rope_triton(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As rope_eager, in one kernel; no gradient flows to the angles."""
    rotated: tuple[Tensor, Tensor] = _rope(query, key, cos, sin, False)
    return rotated


def rope_qkv_eager(
    product: Tensor, num_key_heads: int, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """product [B, M, (heads + 2 key heads) d] -> query [B, heads, M, d] and key, rotated, value
    [B, key heads, M, d], a view of the product."""
    query, key, value = split_heads(product, num_key_heads, 2 * cos.shape[-1])
    return (*rope_eager(query, key, cos, sin), value)


def rope_qkv_triton(
    product: Tensor, num_key_heads: int, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As rope_qkv_eager; no gradient flows to the angles."""
    heads: tuple[Tensor, Tensor, Tensor] = _RopeQkv.apply(product, num_key_heads, cos, sin)  # type: ignore[no-untyped-call]
    return heads


def split_heads(product: Tensor, num_key_heads: int, head_dim: int) -> list[Tensor]:
    """product [B, M, W] -> views of queries, keys and values, each [B, heads, M, head_dim]."""
    heads = product.view(*product.shape[:-1], -1, head_dim).transpose(1, 2)
    num_heads = heads.shape[1] - 2 * num_key_heads
    return list(torch.split_with_sizes(heads, [num_heads, num_key_heads, num_key_heads], dim=1))


class _RopeQkv(torch.autograd.Function):
    """A function and not an operator: an operator may not return a view."""

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, num_key_heads: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = split_heads(product, num_key_heads, 2 * cos.shape[-1])
        ctx.save_for_backward(cos, sin)
        return (*_rope(query, key, cos, sin, False), value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return _rope_qkv_backward(*grads, *ctx.saved_tensors), None, None, None


@torch.library.custom_op("steel::rope_qkv_backward", mutates_args=())
def _rope_qkv_backward(
    grad_query: Tensor, grad_key: Tensor, grad_value: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """Gradient of the product [B, M, (heads + 2 key heads) d]."""
    gradient = _empty_product(grad_query, grad_key)
    query, key, value = split_heads(gradient, grad_key.shape[1], grad_key.shape[-1])
    _rotate_into(query, key, grad_query, grad_key, cos, sin, backwards=True)
    value.copy_(grad_value)
    return gradient


@_rope_qkv_backward.register_fake
def _(grad_query: Tensor, grad_key: Tensor, grad_value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _empty_product(grad_query, grad_key)


def _empty_product(query: Tensor, key: Tensor) -> Tensor:
    rows, heads, length, width = query.shape
    return query.new_empty((rows, length, (heads + 2 * key.shape[1]) * width))


@torch.library.custom_op("steel::rope", mutates_args=())
def _rope(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, backwards: bool
) -> tuple[Tensor, Tensor]:
    """Rotate both (backwards: by the opposite angles), into the projections' memory layout."""
    rotated_query, rotated_key = _like_a_projection(query), _like_a_projection(key)
    _rotate_into(rotated_query, rotated_key, query, key, cos, sin, backwards=backwards)
    return rotated_query, rotated_key


@_rope.register_fake
def _(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, backwards: bool
) -> tuple[Tensor, Tensor]:
    return _like_a_projection(query), _like_a_projection(key)


def _rotate_into(
    rotated_query: Tensor,
    rotated_key: Tensor,
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    backwards: bool,
) -> None:
    """Rotate both into tensors whose memory is ordered by row, token, head, place in the head."""
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    cos, sin = cos.contiguous(), sin.contiguous()
    num_tokens, length, half = query.shape[0] * query.shape[2], query.shape[2], cos.shape[-1]
    query_pairs, key_pairs = (num_tokens * x.shape[1] * half for x in (query, key))
    query_programs, key_programs = -(-query_pairs // BLOCK), -(-key_pairs // BLOCK)
    if query_programs + key_programs == 0:
        return
    outputs = (rotated_query, rotated_key)
    strides = (*query.stride()[:3], *key.stride()[:3], *(x.stride(2) for x in outputs))
    unit = math.gcd(8, half, *strides)
    with on_device(query):
        _rope_kernel[(query_programs + key_programs,)](
            query,
            key,
            cos,
            sin,
            *outputs,
            query_programs,
            query_pairs,
            key_pairs,
            length,
            0 if cos.shape[0] == 1 else length * half,
            *(stride // unit for stride in strides),
            QUERY_HEADS=query.shape[1],
            KEY_HEADS=key.shape[1],
            HALF=half,
            UNIT=unit,
            BACKWARDS=backwards,
            WIDE=max(_extent(x) for x in (query, key, *outputs)) >= 2**31,
            BLOCK=BLOCK,
        )


def _like_a_projection(x: Tensor) -> Tensor:
    """Empty [B, heads, M, d], laid out as [B, M, heads, d], which attention reads fastest."""
    _, heads, length, width = x.shape
    strides = (length * heads * width, width, heads * width, 1)
    return x.new_empty_strided(x.shape, strides)


def _extent(x: Tensor) -> int:
    """Distance from the first element to the last, in elements."""
    return sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


@jit
def _rope_kernel(  # type: ignore[no-untyped-def]
    query_in,
    key_in,
    cos_in,
    sin_in,
    query_out,
    key_out,
    query_programs,
    query_pairs,
    key_pairs,
    length,
    angles_row,
    query_row,
    query_head,
    query_token,
    key_row,
    key_head,
    key_token,
    query_out_token,
    key_out_token,
    QUERY_HEADS: tl.constexpr,
    KEY_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    UNIT: tl.constexpr,
    BACKWARDS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    if program < query_programs:
        _rotate(
            query_in,
            cos_in,
            sin_in,
            query_out,
            program,
            query_pairs,
            length,
            angles_row,
            query_row,
            query_head,
            query_token,
            query_out_token,
            QUERY_HEADS,
            HALF,
            UNIT,
            BACKWARDS,
            WIDE,
            BLOCK,
        )
    elif KEY_HEADS > 0:
        _rotate(
            key_in,
            cos_in,
            sin_in,
            key_out,
            program - query_programs,
            key_pairs,
            length,
            angles_row,
            key_row,
            key_head,
            key_token,
            key_out_token,
            KEY_HEADS,
            HALF,
            UNIT,
            BACKWARDS,
            WIDE,
            BLOCK,
        )


@jit
def _rotate(  # type: ignore[no-untyped-def]
    x_in,
    cos_in,
    sin_in,
    y_out,
    program,
    num_pairs,
    length,
    angles_row,
    stride_row,
    stride_head,
    stride_token,
    out_token,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    UNIT: tl.constexpr,
    BACKWARDS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    if WIDE:
        program = program.to(tl.int64)
    pairs = program * BLOCK + tl.arange(0, BLOCK)
    mask = pairs < num_pairs
    # In the order of memory: row, token, head, place in the half.
    i = pairs % HALF
    vector = pairs // HALF
    head = vector % HEADS
    token = vector // HEADS
    row = token // length
    position = token % length
    angle = row * angles_row + position * HALF + i
    cos = tl.load(cos_in + angle, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_in + angle, mask=mask, other=0.0).to(tl.float32)
    if BACKWARDS:
        sin = -sin
    # Strides are passed divided by UNIT: the compiler must know their divisor to load UNIT values
    # at a time (a head of 56 is a multiple of 8, not of the 16 that it detects in an argument).
    place = (row * stride_row + head * stride_head + position * stride_token) * UNIT + i
    a = tl.load(x_in + place, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x_in + place + HALF, mask=mask, other=0.0).to(tl.float32)
    out = token * out_token * UNIT + head * (2 * HALF) + i
    tl.store(y_out + out, (a * cos - b * sin).to(y_out.dtype.element_ty), mask=mask)
    tl.store(y_out + out + HALF, (b * cos + a * sin).to(y_out.dtype.element_ty), mask=mask)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[2], inputs[3])
    ctx.backwards = inputs[4]


def _backward(ctx: Any, grad_query: Tensor, grad_key: Tensor) -> tuple[Any, ...]:
    cos, sin = ctx.saved_tensors
    return (*_rope(grad_query, grad_key, cos, sin, not ctx.backwards), None, None, None)


_rope.register_autograd(_backward, setup_context=_setup)
