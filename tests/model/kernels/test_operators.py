"""Our operators as torch sees them: registered right, and one graph under torch.compile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kernels import (
    OPERATIONS,
    combine,
    cross_entropy,
    rms_norm,
    rope,
    route,
    swiglu,
    triton_support,
)
from tests.gpu import ON_GPU
from tests.model.kernels.cases import cases, functions, random


def leaf(*shape: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).to(device, dtype).requires_grad_()


def operator_calls(device: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Each operator with arguments that suit it."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return leaf(*shape, device=device, seed=seed)

    angles = torch.ones(1, 1, 4, 3, device=device)
    targets = torch.tensor([1, -100, 4, 0, 2], device=device)
    plain = make(3, 8).detach()
    inverse = torch.rand(3, device=device)
    return {
        "rms_norm": (rms_norm._rms_norm, (make(3, 8), make(8), 1e-6)),
        "add_rms_norm": (rms_norm._add_rms_norm, (make(3, 8), make(3, 8), make(8), 1e-6)),
        "rms_norm_backward": (
            rms_norm._rms_norm_backward,
            (plain, None, plain + 1, plain[0].clone(), inverse),
        ),
        "rope": (rope._rope, (make(2, 4, 4, 6), make(2, 2, 4, 6), angles, angles, False)),
        "swiglu": (swiglu._swiglu, (make(3, 8), make(3, 8))),
        "swiglu_backward": (swiglu._swiglu_backward, (plain, plain + 1, plain + 2)),
        "rope_qkv_backward": (
            rope._rope_qkv_backward,
            (*(make(2, n, 4, 6).detach() for n in (4, 2, 2)), angles, angles),
        ),
        "swiglu_halves": (swiglu._swiglu_halves, (make(3, 8),)),
        "swiglu_halves_backward": (
            swiglu._swiglu_halves_backward,
            (plain[:, :4].contiguous(), plain + 1),
        ),
        "route": (route._route, (make(3, 8), make(2, 8))),
        "weighted_swiglu": (
            combine._weighted_swiglu,
            tuple(make(*shape).detach() for shape in ((2, 3, 8), (2, 3, 8), (3, 2))),
        ),
        "weighted_swiglu_halves": (
            combine._weighted_swiglu_halves,
            tuple(make(*shape).detach() for shape in ((2, 3, 8), (3, 2))),
        ),
        "weighted_swiglu_halves_backward": (
            combine._weighted_swiglu_halves_backward,
            tuple(make(*shape).detach() for shape in ((3, 4), (2, 3, 8), (3, 2))),
        ),
        "hidden_gradient": (
            combine._hidden_gradient,
            (
                [make(2, 3, 8).detach(), make(2, 3, 8, seed=1).detach()],
                [make(2, 5, 8).detach(), make(2, 5, 8, seed=1).detach()],
            ),
        ),
        "linear_cross_entropy": (
            cross_entropy._linear_cross_entropy,
            (make(5, 4), make(6, 4), targets, -100, 2, 16, True, True),
        ),
    }


DEVICES = [
    *([pytest.param("cpu", id="interpreted")] if triton_support.INTERPRETED else []),
    *([] if triton_support.INTERPRETED else [pytest.param("cuda", marks=ON_GPU)]),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", operator_calls("cpu"))
def test_schema_shapes_and_gradients_are_what_was_registered(operator: str, device: str) -> None:
    function, arguments = operator_calls(device)[operator]
    torch.library.opcheck(function, arguments)


def layer(operations: dict[str, tuple[Callable[..., Any], ...]]) -> Callable[..., Tensor]:
    """A function that goes through every operation, as a decoder layer and the loss would."""
    norm, add_norm = operations["rms_norm"]
    turn, turn_product = operations["rope"]
    gate, gate_halves = operations["swiglu"]
    route, combine, combine_halves = operations["soft_moe"]
    (loss,) = operations["cross_entropy"]

    def run(x: Tensor, weight: Tensor, inner: Tensor, cos: Tensor, targets: Tensor) -> Tensor:
        x = norm(x, weight, 1e-6)
        heads = x.view(2, 3, 2, 4).transpose(1, 2)
        query, key = turn(heads, heads[:, :1], cos, cos)
        y = turn(query * key, key, cos, cos)[0].transpose(1, 2).reshape(6, 8)
        y, x = add_norm(y, x.view(6, 8), weight, 1e-6)
        weights = route(y, inner[0, :2].float())
        hidden = gate(y, x)
        y = combine(hidden, inner[:, :4], inner[:, 4:], weights)
        product = torch.cat((x, y), dim=-1).view(2, 3, 16)
        query, key, value = turn_product(product, 1, cos, cos.clone())
        y = (query[:, :1] + query[:, 1:] + key + value).transpose(1, 2).reshape(6, 4).repeat(1, 2)
        hidden = gate_halves(torch.cat((y, x), dim=-1))
        y = combine_halves(hidden, inner[:, :4].repeat(1, 1, 2), weights)
        losses = torch.empty(6, device=x.device)
        total: Tensor = loss(x + y, inner[0], targets, token_losses=losses)
        return total + 0 * losses.sum()

    return run


@pytest.mark.parametrize(
    ("name", "device"), [case for case in cases("soft_moe") if case.values != ("eager", "cuda")]
)
def test_torch_compile_makes_one_graph_with_equal_results(name: str, device: str) -> None:
    operations = {operation: functions(operation, name) for operation in OPERATIONS}
    run = layer(operations)
    inputs = (
        leaf(2, 3, 8, device=device),
        leaf(8, device=device, seed=1),
        leaf(2, 8, 8, device=device, seed=2),
        torch.ones(1, 1, 3, 2, device=device),
        torch.tensor([1, 0, -100, 3, 7, 2], device=device),
    )
    wanted = torch.autograd.grad(run(*inputs), inputs[:3])
    # aot_eager: the whole of torch.compile but the code generator, which needs no test of ours.
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*inputs), inputs[:3])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
