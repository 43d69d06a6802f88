"""Implementations that can run on the devices of this process, and comparison with float64.

Triton's kernels run on a GPU, or on the CPU in Triton's interpreter, which has to be on before the
first import: test_interpreter.py runs the cases called `…-interpreted` in a process of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kernels import IMPLEMENTATIONS, OPERATIONS, choose, liger, triton_support
from tests.gpu import ON_GPU

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
"""Largest error of a result, relative to its norm. bf16 keeps 8 bits: one rounding is 2e-3."""

NO_LIGER = pytest.mark.skipif(
    liger.unavailable_reason() is not None,
    reason=f"Liger-Kernel cannot run here: {liger.unavailable_reason()}",
)


def cases(operation: str) -> list[Any]:
    """Parameters (implementation, device) for an operation of a config."""
    found = []
    for name in IMPLEMENTATIONS[operation]:
        ours = name.startswith("triton")
        if not ours and name != "liger":
            found.append(pytest.param(name, "cpu", id=f"{name}-cpu"))
        elif ours and triton_support.INTERPRETED:
            found.append(pytest.param(name, "cpu", id=f"{name}-interpreted"))
        if not triton_support.INTERPRETED:
            marks = [*ON_GPU, *([NO_LIGER] if name == "liger" else [])]
            found.append(pytest.param(name, "cuda", id=f"{name}-cuda", marks=marks))
    return found


def functions(operation: str, name: str) -> tuple[Callable[..., Any], ...]:
    """The operation's functions, as a model gets them."""
    kernels = choose({operation: name})
    return tuple(getattr(kernels, field) for field in OPERATIONS[operation])


def not_asked(name: str, shape: tuple[int, ...]) -> None:
    """Skip what a library need not do, since no model does it."""
    if name == "liger" and 0 in shape:
        pytest.skip("empty tensors are not asked of a library")


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def agree(
    function: Callable[..., Any],
    formula: Callable[..., Any],
    inputs: Sequence[Tensor],
    dtypes: Sequence[torch.dtype],
    device: str,
    *,
    place: Callable[[Tensor], Tensor] = lambda x: x,
    tolerance: float | None = None,
) -> None:
    """Assert that the function's results and gradients are those of the formula in float64.

    inputs: float64; the function sees them rounded to `dtypes` on the device, laid out by `place`,
    and the formula sees the same rounded values. Gradients of a random weighting of all results.
    """
    rounded = [x.to(dtype) for x, dtype in zip(inputs, dtypes, strict=True)]
    leaves = [x.clone().to(device).requires_grad_() for x in rounded]
    exact = [x.double().clone().requires_grad_() for x in rounded]
    found, wanted = function(*map(place, leaves)), formula(*exact)
    found = found if isinstance(found, tuple) else (found,)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    slopes = [random(*y.shape, seed=9 + k) for k, y in enumerate(wanted)]
    sum((y * w.to(y)).sum() for y, w in zip(found, slopes, strict=True)).backward()
    sum((y * w).sum() for y, w in zip(wanted, slopes, strict=True)).backward()
    limit = tolerance or TOLERANCE[min(dtypes, key=lambda dtype: dtype.itemsize)]
    for y, exact_y in zip(found, wanted, strict=True):
        close(y, exact_y, limit)
    for leaf, exact_leaf in zip(leaves, exact, strict=True):
        assert leaf.grad is not None and exact_leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        close(leaf.grad, exact_leaf.grad, limit)


def close(found: Tensor, wanted: Tensor, limit: float) -> None:
    """Assert that the error is at most `limit` of the norm, and nowhere far above it."""
    assert found.shape == wanted.shape
    found, wanted = found.detach().double().cpu(), wanted.detach()
    assert found.isfinite().all()
    if not wanted.numel():
        return
    assert (found - wanted).norm() <= limit * wanted.norm() + 1e-30
    scale = wanted.square().mean().sqrt().item()
    torch.testing.assert_close(found, wanted, rtol=4 * limit, atol=4 * limit * scale + 1e-30)


def loss_inputs(
    shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, ...]:
    """Hidden states, output weights and targets of a loss; shape (T, d, V), a third ignored."""
    num_tokens, width, vocabulary = shape
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=generator).to(dtype)
    weight = (3 * torch.randn(vocabulary, width, generator=generator) / width**0.5).to(dtype)
    targets = torch.randint(0, vocabulary, (num_tokens,), generator=generator)
    if num_tokens > 2:
        targets[::3] = -100
    return hidden, weight, targets
