"""SwiGLU's elementwise part against its formula in float64."""

import pytest
import torch
from torch import Tensor

from tests.model.kernels.cases import agree, cases, functions, not_asked, random

SHAPES = [(1,), (5, 123), (2, 3, 7), (5, 13, 123), (0, 3)]


def formula(gate: Tensor, up: Tensor) -> Tensor:
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize(("name", "device"), cases("swiglu"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(name: str, device: str, dtype: torch.dtype, shape: tuple) -> None:
    not_asked(name, shape)
    swiglu, _ = functions("swiglu", name)
    agree(swiglu, formula, [random(*shape), random(*shape, seed=1)], [dtype] * 2, device)


@pytest.mark.parametrize(("name", "device"), cases("swiglu"))
def test_halves_of_one_projection(name: str, device: str) -> None:
    swiglu, _ = functions("swiglu", name)

    def halves(both: Tensor) -> Tensor:
        return swiglu(*both.chunk(2, dim=-1))

    agree(
        halves,
        lambda both: formula(*both.chunk(2, dim=-1)),
        [random(6, 34)],
        [torch.float32],
        device,
    )


@pytest.mark.parametrize(("name", "device"), cases("swiglu"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2,), (5, 246), (2, 3, 14), (3, 4096), (0, 6)], ids=str)
def test_one_operand(name: str, device: str, dtype: torch.dtype, shape: tuple) -> None:
    not_asked(name, shape)
    _, halves = functions("swiglu", name)

    def wanted(both: Tensor) -> Tensor:
        return formula(*both.chunk(2, dim=-1))

    agree(halves, wanted, [random(*shape)], [dtype], device)
    # A tensor whose rows are not one after the other.
    agree(lambda x: halves(x.t()), lambda x: wanted(x.t()), [random(6, 5)], [dtype], device)


@pytest.mark.parametrize(("name", "device"), cases("swiglu"))
def test_saturated_gates(name: str, device: str) -> None:
    swiglu, _ = functions("swiglu", name)
    gate = torch.tensor([-600.0, -80.0, -1.0, 0.0, 1.0, 90.0, 1e4], dtype=torch.float64)
    up = random(7)
    for place in range(7):  # one by one: 1e4 must not hide an error elsewhere
        one = [gate[place : place + 1], up[place : place + 1]]
        agree(swiglu, formula, one, [torch.float32] * 2, device)
