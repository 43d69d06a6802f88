"""Routing and combining against their equations in float64."""

import pytest
import torch
from torch import Tensor

from model.kernels.route import MAX_SLOTS, MIN_NORM
from tests.model.kernels.cases import agree, cases, close, functions, random

DTYPES = [torch.float32, torch.bfloat16]


def weights_of(x: Tensor, keys: Tensor) -> Tensor:
    length = x.square().sum(-1, keepdim=True).sqrt().clamp_min(MIN_NORM)
    exponentials = ((x @ keys.T) / length).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


def combined(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
    total = torch.zeros(len(hidden), gate_out.shape[-1], dtype=torch.float64)
    for k, by_expert in enumerate(hidden.chunk(len(gate_out), dim=1)):
        gate, up = by_expert @ gate_out[k], by_expert @ up_out[k]
        total = total + weights[:, k : k + 1] * gate / (1 + (-gate).exp()) * up
    return total


@pytest.mark.parametrize(("name", "device"), cases("soft_moe"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width", "slots"), [(1, 3, 2), (37, 123, 6), (5, 64, 17)])
def test_route(
    name: str, device: str, dtype: torch.dtype, tokens: int, width: int, slots: int
) -> None:
    route, _, _ = functions("soft_moe", name)
    inputs = random(tokens, width), random(slots, width, seed=1)
    agree(route, weights_of, inputs, [dtype, torch.float32], device)


@pytest.mark.parametrize(("name", "device"), cases("soft_moe"))
def test_route_with_logits_at_their_bound_and_layouts(name: str, device: str) -> None:
    route, _, _ = functions("soft_moe", name)
    keys = random(3, 20, seed=1)
    keys *= 40 / keys.norm(dim=-1, keepdim=True)
    inputs = torch.cat((random(4, 20), keys, -keys)), keys
    dtypes = [torch.float32] * 2
    agree(route, weights_of, inputs, dtypes, device, place=lambda x: x.t().contiguous().t())


@pytest.mark.parametrize(("name", "device"), cases("soft_moe"))
def test_route_of_an_empty_token(name: str, device: str) -> None:
    route, _, _ = functions("soft_moe", name)
    x = torch.zeros(2, 9, device=device, requires_grad=True)
    weights = route(x, random(4, 9, seed=1).float().to(device))
    close(weights, torch.full((2, 4), 0.25, dtype=torch.float64), 1e-6)
    weights.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(("name", "device"), cases("soft_moe"))
def test_route_to_very_many_slots(name: str, device: str) -> None:
    route, _, _ = functions("soft_moe", name)
    inputs = random(3, 5), random(MAX_SLOTS + 1, 5, seed=1)
    agree(route, weights_of, inputs, [torch.float32] * 2, device)


@pytest.mark.parametrize(("name", "device"), cases("soft_moe"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "experts", "inner", "width"), [(1, 1, 2, 3), (17, 3, 13, 123), (2, 6, 5, 2051)]
)
def test_combine(
    name: str, device: str, dtype: torch.dtype, tokens: int, experts: int, inner: int, width: int
) -> None:
    _, combine, combine_halves = functions("soft_moe", name)
    inputs = (
        random(tokens, experts * inner),
        random(experts, inner, width, seed=1) / inner**0.5,
        random(experts, inner, width, seed=2) / inner**0.5,
        random(tokens, experts, seed=3).softmax(-1),
    )
    # Gate and up are rounded to bf16 between the matrix products and the rest.
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    dtypes = [dtype] * 3 + [torch.float32]
    agree(combine, combined, inputs, dtypes, device, tolerance=tolerance)

    def of_one_operand(hidden: Tensor, gate_out: Tensor, up_out: Tensor, weights: Tensor) -> Tensor:
        return combine_halves(hidden, torch.cat((gate_out, up_out), dim=-1), weights)

    agree(of_one_operand, combined, inputs, dtypes, device, tolerance=tolerance)


@pytest.mark.parametrize(("name", "device"), cases("soft_moe"))
def test_combine_under_autocast(name: str, device: str) -> None:
    _, combine, combine_halves = functions("soft_moe", name)
    inputs = [
        x.float().to(device).requires_grad_()
        for x in (
            random(9, 16),
            random(2, 8, 16, seed=1),
            random(2, 8, 16, seed=2),
            random(9, 2, seed=3),
        )
    ]
    hidden, gate_out, up_out, weights = inputs
    with torch.autocast(device_type=device, dtype=torch.bfloat16):
        found = (
            combine(*inputs),
            combine_halves(hidden, torch.cat((gate_out, up_out), dim=-1), weights),
        )
    for y in found:
        y.float().sum().backward()
        close(y, combined(*(x.detach().double().cpu() for x in inputs)), 3e-2)
        for x in inputs:
            assert x.grad is not None and x.grad.dtype == torch.float32
            x.grad = None
