"""Rotary positions against their definition in float64."""

import math

import pytest
import torch
from torch import Tensor

from model.kernels.rope import rope_angles
from tests.model.kernels.cases import agree, cases, close, functions, random


@pytest.mark.parametrize(("name", "device"), cases("rope"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [2, 6, 56])
def test_turns_pairs_by_angles_that_fall_geometrically(
    name: str, device: str, dtype: torch.dtype, head_dim: int
) -> None:
    positions = torch.tensor([[0, 1, 7, 2047], [3, 0, 1, 500]])
    x = random(2, 3, 4, head_dim).to(dtype)
    wanted = torch.empty(x.shape, dtype=torch.float64)
    half = head_dim // 2
    for row in range(2):
        for place in range(4):
            for i in range(half):
                angle = int(positions[row, place]) * 1e6 ** (-2 * i / head_dim)
                a, b = x[row, :, place, i].double(), x[row, :, place, half + i].double()
                wanted[row, :, place, i] = a * math.cos(angle) - b * math.sin(angle)
                wanted[row, :, place, half + i] = b * math.cos(angle) + a * math.sin(angle)
    angles = rope_angles(positions.to(device), head_dim, 1e6)
    assert angles[0].dtype == torch.float32
    rope, _ = functions("rope", name)
    # fp32 angles near 2,047 are exact to 1e-4.
    turned, _ = rope(x.to(device), x[:, :1].clone().to(device), *angles)
    close(turned, wanted, 5e-4 if dtype == torch.float32 else 8e-3)


@pytest.mark.parametrize(("name", "device"), cases("rope"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["heads inside", "heads outside", "other halves"])
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(6, 6, 56), (4, 1, 10), (3, 3, 64)])
@pytest.mark.parametrize(
    ("rows_of_angles", "angles_dtype"),
    [(1, torch.float32), (2, torch.float32), (1, torch.bfloat16)],
)
def test_pair_values_and_gradients(
    name: str,
    device: str,
    dtype: torch.dtype,
    layout: str,
    heads: int,
    key_heads: int,
    head_dim: int,
    rows_of_angles: int,
    angles_dtype: torch.dtype,
) -> None:
    rope, _ = functions("rope", name)
    angles = 3 * random(rows_of_angles, 1, 5, head_dim // 2, seed=3)
    # bf16: what a caller has who lets FSDP cast them. Wrong for a model, but the same function.
    cos, sin = angles.cos().to(angles_dtype), angles.sin().to(angles_dtype)

    def place(x: Tensor) -> Tensor:
        # As a projection gives it, as a cache does, and with a last axis that is not contiguous.
        if layout == "heads inside":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        return x if layout == "heads outside" else x.transpose(2, 3).contiguous().transpose(2, 3)

    def formula(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        c, s = cos.double(), sin.double()
        halves = (x.chunk(2, dim=-1) for x in (query, key))
        return tuple(torch.cat((a * c - b * s, b * c + a * s), dim=-1) for a, b in halves)

    def turned(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        return rope(query, key, cos.to(device), sin.to(device))

    inputs = random(2, heads, 5, head_dim), random(2, key_heads, 5, head_dim, seed=1)
    agree(turned, formula, inputs, [dtype] * 2, device, place=lambda x: place(x).clone())


@pytest.mark.parametrize(("name", "device"), cases("rope"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(6, 6, 56), (4, 1, 10), (3, 3, 64)])
@pytest.mark.parametrize("rows_of_angles", [1, 2])
def test_queries_keys_and_values_of_one_product(
    name: str,
    device: str,
    dtype: torch.dtype,
    heads: int,
    key_heads: int,
    head_dim: int,
    rows_of_angles: int,
) -> None:
    _, rope_qkv = functions("rope", name)
    angles = 3 * random(rows_of_angles, 1, 5, head_dim // 2, seed=3)
    cos, sin = angles.cos().float(), angles.sin().float()

    def formula(product: Tensor) -> tuple[Tensor, ...]:
        c, s = cos.double(), sin.double()
        ends = (heads * head_dim, (heads + key_heads) * head_dim)
        parts = (product[..., : ends[0]], product[..., ends[0] : ends[1]], product[..., ends[1] :])
        query, key, value = (x.reshape(2, 5, -1, head_dim).transpose(1, 2) for x in parts)
        halves = (x.chunk(2, dim=-1) for x in (query, key))
        turned = (torch.cat((a * c - b * s, b * c + a * s), dim=-1) for a, b in halves)
        return (*turned, value)

    def found(product: Tensor) -> tuple[Tensor, ...]:
        return rope_qkv(product, key_heads, cos.to(device), sin.to(device))

    inputs = [random(2, 5, (heads + 2 * key_heads) * head_dim)]
    agree(found, formula, inputs, [dtype], device)


@pytest.mark.parametrize(("name", "device"), cases("rope"))
def test_keeps_lengths_and_depends_on_differences_of_positions_only(name: str, device: str) -> None:
    rope, _ = functions("rope", name)
    query = random(1, 1, 1, 8).float().to(device)
    key = random(1, 1, 1, 8, seed=1).float().to(device)

    def turn(x: Tensor, place: int) -> Tensor:
        angles = rope_angles(torch.tensor([[place]], device=device), 8, 1e4)
        turned, _ = rope(x.clone(), x.clone(), *angles)
        return turned

    def product(i: int, j: int) -> Tensor:
        return (turn(query, i) * turn(key, j)).sum()

    torch.testing.assert_close(product(3, 1), product(103, 101), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turn(query, 77).norm(), query.norm())
