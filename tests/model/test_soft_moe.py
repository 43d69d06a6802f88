"""Soft MoE against the paper's equations, written out slowly in float64 with plain loops."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model import SteelConfig, SteelForCausalLM, SteelModel
from model.architecture import MergedProduct
from model.kernels import choose
from model.merged_products import merge_products
from model.soft_moe import MAX_LOGIT_SCALE, LeakWarning, SoftMoE, warn_if_leaking

D, H = 7, 5
"""Hidden size and expert width of these tests: odd, and different from all other sizes."""


def make_layer(
    routing: str, num_experts: int = 3, slots: int = 1, **changes: object
) -> tuple[SoftMoE, SteelConfig]:
    config = SteelConfig(
        vocab_size=9,
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=2,
        expert_intermediate_size=H,
        num_experts=num_experts,
        slots_per_expert=slots,
        routing=routing,
        **changes,
    )
    generator = torch.Generator().manual_seed(3)
    layer = SoftMoE(config, choose("eager"))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if config.has_router:
            layer.scale.fill_(2.5)
    return layer, config


def silu(z: float) -> float:
    return z / (1 + math.exp(-z))


def matrix(weight: Tensor, expert: int) -> list[list[float]]:
    """Rows of one expert in a stacked weight: [H][D] floats."""
    rows: list[list[float]] = weight.detach().double()[expert * H : (expert + 1) * H].tolist()
    return rows


def expert_by_hand(layer: SoftMoE, expert: int, x: list[float]) -> list[float]:
    """silu(W3 h) * (W4 h) of h = silu(W1 x) * (W2 x) (PAPER: SwiGLU in both layers)."""
    w1, w2 = matrix(layer.experts.gate_in, expert), matrix(layer.experts.up_in, expert)
    w3, w4 = matrix(layer.experts.gate_out, expert), matrix(layer.experts.up_out, expert)
    hidden = [
        silu(sum(w1[u][c] * x[c] for c in range(D))) * sum(w2[u][c] * x[c] for c in range(D))
        for u in range(H)
    ]
    return [
        silu(sum(w3[u][c] * hidden[u] for u in range(H)))
        * sum(w4[u][c] * hidden[u] for u in range(H))
        for c in range(D)
    ]


def unit(x: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in x))
    return [value / length for value in x]


def by_hand(layer: SoftMoE, config: SteelConfig, rows: Tensor) -> Tensor:
    """One row [M, D] through section 3.1's equations with normalised logits."""
    tokens: list[list[float]] = rows.detach().double().tolist()
    n, p = config.num_experts, config.slots_per_expert
    gain = config.gain if layer.gain is None else float(layer.gain.detach())
    if config.routing == "uniform":
        experts = [[expert_by_hand(layer, k, x) for k in range(n)] for x in tokens]
        means = [[gain * sum(y[c] for y in ys) / n for c in range(D)] for ys in experts]
        return torch.tensor(means, dtype=torch.float64)
    phi: list[list[float]] = layer.phi.detach().double().T.tolist()
    scale = float(layer.scale.detach())
    logits = [
        [scale * sum(a * b for a, b in zip(unit(x), unit(f), strict=True)) for f in phi]
        for x in tokens
    ]
    combine = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits]
    output = []
    if config.routing == "token":
        for x, weights in zip(tokens, combine, strict=True):
            slot_outputs = [expert_by_hand(layer, j // p, x) for j in range(n * p)]
            output.append(
                [
                    gain * sum(w * y[c] for w, y in zip(weights, slot_outputs, strict=True))
                    for c in range(D)
                ]
            )
        return torch.tensor(output, dtype=torch.float64)
    fed = [unit(x) for x in tokens] if config.routing == "reference_norm" else tokens
    slot_outputs = []
    for j in range(n * p):
        total = sum(math.exp(row[j]) for row in logits)
        dispatch = [math.exp(row[j]) / total for row in logits]
        slot = [sum(w * x[c] for w, x in zip(dispatch, fed, strict=True)) for c in range(D)]
        slot_outputs.append(expert_by_hand(layer, j // p, slot))
    for weights in combine:
        output.append(
            [
                gain * sum(w * y[c] for w, y in zip(weights, slot_outputs, strict=True))
                for c in range(D)
            ]
        )
    return torch.tensor(output, dtype=torch.float64)


@pytest.mark.parametrize("merged", [(), ("ffn_in", "ffn_out")], ids=["separate", "merged"])
@pytest.mark.parametrize("routing", ["token", "sequence", "reference_norm", "uniform"])
@pytest.mark.parametrize(("num_experts", "slots"), [(3, 1), (2, 3), (1, 1)])
def test_agrees_with_the_equations(
    routing: str, num_experts: int, slots: int, merged: tuple[MergedProduct, ...]
) -> None:
    layer, config = make_layer(routing, num_experts, slots, gain=1.7)
    merge_products(layer, merged)
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(4))
    expected = torch.stack([by_hand(layer, config, row) for row in x])
    torch.testing.assert_close(layer(x).double(), expected, rtol=2e-5, atol=2e-5)


def test_a_learned_gain_starts_at_the_configured_one_and_multiplies_the_output() -> None:
    config = SteelConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        gain=3.0,
        learn_gain=True,
        expert_intermediate_size=4,
    )
    moe = SteelModel(config).layers[0].mlp
    assert moe.gain.tolist() == [3.0]
    x = torch.randn(1, 4, 8)
    before = moe(x)
    with torch.no_grad():
        moe.gain.mul_(2)
    torch.testing.assert_close(moe(x), 2 * before)


def test_logits_are_fp32_and_bounded_however_large_the_scale() -> None:
    layer, _ = make_layer("token")
    with torch.no_grad():
        layer.scale.fill_(1e6)
    x = torch.randn(4, 6, D, generator=torch.Generator().manual_seed(5), dtype=torch.float32) * 1e3
    layer = layer.to(torch.bfloat16)
    logits = layer.logits(x.to(torch.bfloat16))
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= MAX_LOGIT_SCALE * (1 + 1e-5)
    assert layer(x.to(torch.bfloat16)).isfinite().all()


def test_a_zero_token_is_routed_evenly_and_gives_no_nan() -> None:
    layer, _ = make_layer("token")
    x = torch.zeros(1, 2, D, requires_grad=True)
    assert torch.equal(layer.logits(x), torch.zeros(1, 2, 3))
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("merged", [(), ("ffn_in", "ffn_out")], ids=["separate", "merged"])
@pytest.mark.parametrize("routing", ["token", "sequence", "uniform"])
def test_gradients_agree_with_differences(routing: str, merged: tuple[MergedProduct, ...]) -> None:
    # Router logits are fp32 by contract, so the differences need a wide step.
    layer, _ = make_layer(routing, slots=2)
    merge_products(layer, merged)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter.mul_(0.5)
    x = torch.randn(1, 4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    x.requires_grad_()
    direction = torch.randn(
        x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    parameters = [x, *layer.parameters()]
    gradients = torch.autograd.grad((layer(x) * direction).sum(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        step = torch.randn(
            parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8)
        )
        step *= 1e-3 / step.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step)
                values.append(float((layer(x) * direction).sum()))
                parameter.sub_(sign * step)
        measured = (values[0] - values[1]) / 2
        assert measured == pytest.approx(float((gradient * step).sum()), rel=2e-2, abs=2e-7)


def test_every_expert_learns_from_every_token_in_token_mode() -> None:
    layer, config = make_layer("token", num_experts=4)
    x = torch.randn(1, 1, D, generator=torch.Generator().manual_seed(9))
    layer(x).sum().backward()
    for weight in layer.experts.parameters():
        assert weight.grad is not None
        by_expert = weight.grad.view(config.num_experts, -1)
        assert (by_expert.abs().sum(dim=1) > 0).all()


@torch.no_grad()
def test_even_routing_is_token_routing_whose_logits_are_all_zero() -> None:
    routed, _ = make_layer("token", num_experts=4, slots=2)
    even, _ = make_layer("uniform", num_experts=4, slots=2)
    routed.scale.fill_(0.0)
    even.experts.load_state_dict(routed.experts.state_dict())
    assert {name for name, _ in routed.named_parameters()} - {
        name for name, _ in even.named_parameters()
    } == {"phi", "scale"}
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(11))
    torch.testing.assert_close(even(x), routed(x), rtol=1e-6, atol=1e-6)


def test_padding_takes_no_part_in_the_dispatch() -> None:
    layer, _ = make_layer("sequence")
    x = torch.randn(1, 4, D, generator=torch.Generator().manual_seed(10))
    padded = torch.cat([torch.randn(1, 3, D) * 100, x], dim=1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    torch.testing.assert_close(layer(padded, mask)[:, 3:], layer(x))
    assert layer(padded, torch.zeros(1, 7)).isfinite().all()


def test_only_the_sequence_modes_warn_that_they_leak(
    make_model: Callable[..., SteelForCausalLM],
) -> None:
    for routing in ("sequence", "reference_norm"):
        config = make_model(routing=routing).config
        with pytest.warns(LeakWarning, match=f"{routing}.*later tokens"):
            SteelForCausalLM(config)
    for routing in ("token", "uniform", "dense"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_leaking(make_model(routing=routing).config)


def test_narrow_experts_do_not_vanish_at_the_start() -> None:
    def output_size(expert_init: str) -> float:
        torch.manual_seed(0)
        config = SteelConfig(
            vocab_size=9,
            hidden_size=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            expert_intermediate_size=32,
            expert_init=expert_init,
        )
        moe = SteelModel(config).layers[0].mlp
        return moe(torch.randn(1, 64, 128)).square().mean().sqrt().item()

    assert output_size("fan_in") > 1e-2
    assert output_size("fixed") < 1e-4
