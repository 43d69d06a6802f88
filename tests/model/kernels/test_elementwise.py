"""RMSNorm, RoPE and SwiGLU against their formulas in float64, and the choice of implementations."""

import math

import pytest
import torch

from model.errors import ConfigError
from model.kernels import IMPLEMENTATIONS, choose, linear_cross_entropy_eager, rope_angles

DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]


def implementations(operation: str) -> list[str]:
    return list(IMPLEMENTATIONS[operation])


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, tolerance: float) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", implementations("rms_norm"))
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 123), (2, 3, 56)])
def test_rms_norm(name: str, dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    x = random(*shape, dtype=dtype).requires_grad_()
    weight = random(shape[-1], dtype=dtype, seed=1).requires_grad_()
    wide_x = x.detach().double().requires_grad_()
    wide_weight = weight.detach().double().requires_grad_()
    mean_square = (wide_x**2).sum(-1, keepdim=True) / shape[-1]
    wanted = wide_weight * wide_x / (mean_square + 1e-6) ** 0.5
    found = choose({"rms_norm": name}).rms_norm(x, weight, 1e-6)
    check(found, wanted, dtype, tolerance)
    slope = random(*shape, dtype=dtype, seed=2)
    (found * slope).sum().backward()
    (wanted * slope.double()).sum().backward()
    check(x.grad, wide_x.grad, dtype, 4 * tolerance)
    check(weight.grad, wide_weight.grad, dtype, 4 * tolerance)


def test_rms_norm_of_tiny_bf16_values_does_not_underflow() -> None:
    x = torch.full((1, 64), 1e-20, dtype=torch.bfloat16)
    y = choose("eager").rms_norm(x, torch.ones(64), 1e-45)
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize("name", implementations("rope"))
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("head_dim", [2, 6, 56])
def test_rope_turns_pairs_by_angles_that_fall_geometrically(
    name: str, dtype: torch.dtype, tolerance: float, head_dim: int
) -> None:
    positions = torch.tensor([[0, 1, 7, 2047], [3, 0, 1, 500]])
    x = random(2, 3, 4, head_dim, dtype=dtype)
    wanted = torch.empty(x.shape, dtype=torch.float64)
    half = head_dim // 2
    for row in range(2):
        for place in range(4):
            for i in range(half):
                angle = int(positions[row, place]) * 1e6 ** (-2 * i / head_dim)
                a, b = x[row, :, place, i].double(), x[row, :, place, half + i].double()
                wanted[row, :, place, i] = a * math.cos(angle) - b * math.sin(angle)
                wanted[row, :, place, half + i] = b * math.cos(angle) + a * math.sin(angle)
    angles = rope_angles(positions, head_dim, 1e6)
    assert angles[0].dtype == torch.float32
    # fp32 angles near 2,047 are exact to 1e-4.
    check(choose({"rope": name}).rope(x, *angles), wanted, dtype, max(tolerance, 5e-4))


@pytest.mark.parametrize("name", implementations("rope"))
def test_rope_keeps_lengths_and_depends_on_differences_of_positions_only(name: str) -> None:
    rope = choose({"rope": name}).rope
    query, key = random(1, 1, 1, 8, dtype=torch.float32), random(1, 1, 1, 8, dtype=torch.float32)

    def product(i: int, j: int) -> torch.Tensor:
        turned = (
            rope(x, *rope_angles(torch.tensor([[place]]), 8, 1e4))
            for x, place in ((query, i), (key, j))
        )
        return torch.mul(*turned).sum()

    torch.testing.assert_close(product(3, 1), product(103, 101), rtol=1e-4, atol=1e-4)
    turned = rope(query, *rope_angles(torch.tensor([[77]]), 8, 1e4))
    torch.testing.assert_close(turned.norm(), query.norm())


@pytest.mark.parametrize("name", implementations("swiglu"))
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(1,), (5, 123), (2, 3, 7)])
def test_swiglu(name: str, dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    gate = random(*shape, dtype=dtype).requires_grad_()
    up = random(*shape, dtype=dtype, seed=1).requires_grad_()
    wide_gate = gate.detach().double().requires_grad_()
    wide_up = up.detach().double().requires_grad_()
    wanted = wide_gate / (1 + (-wide_gate).exp()) * wide_up
    found = choose({"swiglu": name}).swiglu(gate, up)
    check(found, wanted, dtype, tolerance)
    found.sum().backward()
    wanted.sum().backward()
    check(gate.grad, wide_gate.grad, dtype, tolerance)
    check(up.grad, wide_up.grad, dtype, tolerance)


def test_choice_by_operation_leaves_the_others_on_auto() -> None:
    assert choose("auto") == choose({})
    assert choose("eager").cross_entropy is linear_cross_entropy_eager
    assert choose({"rope": "eager"}).cross_entropy == choose("auto").cross_entropy


@pytest.mark.parametrize("wrong", ["fastest", {"rope": "fastest"}, {"attention": "eager"}])
def test_unknown_choices_are_refused(wrong: str | dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="choose among"):
        choose(wrong)
