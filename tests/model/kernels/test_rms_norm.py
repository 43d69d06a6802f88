"""RMSNorm, alone and after an addition, against its formula in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.kernels import rms_norm
from tests.model.kernels.cases import agree, cases, close, functions, not_asked, random

SHAPES = [(1, 3), (7, 123), (2, 3, 56), (5, 13, 123), (3, 1792), (0, 8)]
DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-6


def formula(x: Tensor, weight: Tensor) -> Tensor:
    mean_square = (x**2).sum(-1, keepdim=True) / x.shape[-1]
    return weight * x / (mean_square + EPS) ** 0.5


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(name: str, device: str, dtype: torch.dtype, shape: tuple) -> None:
    not_asked(name, shape)
    norm, _ = functions("rms_norm", name)
    inputs = random(*shape), random(shape[-1], seed=1)
    agree(lambda x, w: norm(x, w, EPS), formula, inputs, [dtype] * 2, device)


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_sum_and_norm(name: str, device: str, dtype: torch.dtype, shape: tuple) -> None:
    not_asked(name, shape)
    _, add_norm = functions("rms_norm", name)
    inputs = random(*shape), random(*shape, seed=1), random(shape[-1], seed=2)

    def both(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return formula(x + residual, weight), x + residual

    agree(lambda x, r, w: add_norm(x, r, w, EPS), both, inputs, [dtype] * 3, device)


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
@pytest.mark.parametrize("used", [0, 1])
def test_either_result_of_sum_and_norm_alone(name: str, device: str, used: int) -> None:
    _, add_norm = functions("rms_norm", name)
    inputs = random(5, 12), random(5, 12, seed=1), random(12, seed=2)

    def one(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        # The weight takes part, so that it has a gradient (of zero) in both.
        return (formula(x + residual, weight), x + residual + 0 * weight)[used]

    def found(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        return add_norm(x, residual, weight, EPS)[used] + 0 * weight

    agree(found, one, inputs, [torch.float32] * 3, device)


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
@pytest.mark.parametrize(
    "place",
    [lambda x: x.t().contiguous().t() if x.ndim == 2 else x, lambda x: torch.stack((x, x))[1]],
    ids=["transposed", "inside of another"],
)
def test_memory_layouts(name: str, device: str, place: Callable[[Tensor], Tensor]) -> None:
    norm, _ = functions("rms_norm", name)
    inputs = random(6, 20), random(20, seed=1)
    dtypes = [torch.float32] * 2
    agree(lambda x, w: norm(x, w, EPS), formula, inputs, dtypes, device, place=place)


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
def test_zero_rows_huge_and_tiny_values(name: str, device: str) -> None:
    norm, _ = functions("rms_norm", name)
    x = random(4, 33)
    x[0] = 0
    x[1] *= 1e9
    x[2] *= 1e-9
    inputs = x, random(33, seed=1)
    # Gradients of rows of such different scales would hide each other: rows one by one.
    for row in range(4):
        one = inputs[0][row : row + 1], inputs[1]
        agree(lambda x, w: norm(x, w, EPS), formula, one, [torch.float32] * 2, device)


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
def test_tiny_bf16_values_do_not_underflow(name: str, device: str) -> None:
    norm, _ = functions("rms_norm", name)
    # Their squares are normal numbers: a GPU takes smaller ones for zero (rsqrt.approx.ftz).
    x = torch.full((1, 64), 1e-18, dtype=torch.bfloat16, device=device)
    assert float(x[0, 0]) ** 2 > torch.finfo(torch.float32).tiny
    y = norm(x, torch.ones(64, device=device), 1e-45)
    assert y.dtype == torch.bfloat16
    assert (y == 1).all()


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
def test_fp32_weight_of_a_bf16_stream(name: str, device: str) -> None:
    norm, _ = functions("rms_norm", name)
    inputs = random(9, 24), random(24, seed=1)
    dtypes = [torch.bfloat16, torch.float32]
    agree(lambda x, w: norm(x, w, EPS), formula, inputs, dtypes, device)


@pytest.mark.parametrize(("name", "device"), cases("rms_norm"))
@pytest.mark.parametrize("types", [("bfloat16", "float32"), ("float32", "bfloat16")], ids=str)
def test_sum_of_two_types_is_of_the_wider(name: str, device: str, types: tuple[str, str]) -> None:
    """Under autocast a product in bf16 joins a residual stream in fp32."""
    if name == "liger":
        pytest.skip("no model of ours asks it of the library")
    _, add_norm = functions("rms_norm", name)
    x, residual = (random(9, 24, seed=k).to(getattr(torch, t)) for k, t in enumerate(types))
    norm, total = add_norm(x.to(device), residual.to(device), torch.ones(24, device=device), EPS)
    assert norm.dtype == total.dtype == torch.float32
    close(total, x.double() + residual.double(), 1e-5)
    close(norm, formula(x.double() + residual.double(), torch.ones(24).double()), 1e-5)


def test_the_kernel_takes_two_types_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no eager way out, which SFT and DPO once took under autocast."""
    taken = []

    def kernel(x: Tensor, residual: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
        taken.append((x.dtype, residual.dtype))
        return x, residual, x

    monkeypatch.setattr(rms_norm, "_add_rms_norm", kernel)
    rms_norm.add_rms_norm_triton(random(3, 8).bfloat16(), random(3, 8).float(), random(8), EPS)
    assert taken == [(torch.float32, torch.float32)]
