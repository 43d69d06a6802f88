"""Muon against singular values in float64, and expert by expert."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from model.config import SteelConfig
from model.modeling_steel import SteelForCausalLM
from model.train.config import PretrainSettings
from model.train.optim.config import MuonSettings
from model.train.optim.muon import MuonAndAdamW, orthogonalize, orthogonalize_all
from model.train.optim.optimizer import build_optimizer, set_learning_rate
from tests.gpu import on_gpu

EXPERTS, WIDTH, HIDDEN = 3, 8, 32
Matrix = npt.NDArray[np.float64]


def newton_schulz_of_singular_values(values: Matrix, steps: int) -> Matrix:
    """The iteration on singular values themselves, as numbers of float64."""
    x = values / math.sqrt(float((values**2).sum()))
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


def orthogonal_factor(matrix: Matrix, steps: int) -> Matrix:
    """The same factor as the iteration's, by a singular value decomposition instead."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    factor: Matrix = (left * newton_schulz_of_singular_values(values, steps)) @ right
    return factor


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8), (1, 7), (33, 17)])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomial(
    shape: tuple[int, int], steps: int
) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)) * 1e-4
    found = orthogonalize(matrices, steps)
    for matrix, factor in zip(matrices, found, strict=True):
        expected = orthogonal_factor(matrix.double().numpy(), steps)
        np.testing.assert_allclose(factor.double().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_five_steps_bring_singular_values_near_1(dtype: torch.dtype) -> None:
    left, _ = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2)))
    values = torch.logspace(0, -2, 32)
    found = orthogonalize(((left * values) @ left.T)[None].to(dtype), 5)[0]
    assert found.dtype == dtype
    singular = torch.linalg.svdvals(found.float())
    assert float(singular.min()) > 0.6 and float(singular.max()) < 1.25


def test_five_steps_do_what_the_setting_says() -> None:
    values = torch.logspace(0, -3.5, 200)
    found = orthogonalize(values.diag()[None], 5)[0].diagonal()
    reached = found[values > float(values.norm()) / 600]
    assert float(reached.min()) > 0.68 and float(found.max()) < 1.21
    assert float(found[values < float(values.norm()) / 1000].max()) < 0.5, "smaller ones need more"


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not orthogonalize(torch.zeros(2, 4, 6), 5).any()


def test_matrices_of_several_shapes_come_back_in_their_order() -> None:
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(shape, generator=generator) for shape in ((4, 6), (6, 4), (4, 6), (5, 5))]
    found = orthogonalize_all(given, 5)
    for matrix, factor in zip(given, found, strict=True):
        torch.testing.assert_close(factor, orthogonalize(matrix[None], 5)[0])


# ── the optimizer ────────────────────────────────────────────────────────────────────────────────


def small_model(**fields: Any) -> SteelForCausalLM:
    torch.manual_seed(5)
    sizes = {"vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_experts": EXPERTS, "expert_intermediate_size": WIDTH}
    return SteelForCausalLM(SteelConfig(**{**sizes, **fields}))


def settings_of(**values: Any) -> PretrainSettings:
    return PretrainSettings(**{"optimizer": "muon", "precision": "fp32", **values})


def random_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def is_hidden(name: str) -> bool:
    return "_proj.weight" in name or "experts" in name


def blocks(name: str, weight: Tensor) -> list[Matrix]:
    """The matrices of a weight: one, or each expert's own rows."""
    whole: Matrix = weight.detach().double().numpy()
    return np.split(whole.copy(), EXPERTS) if "experts" in name else [whole.copy()]


def test_equals_muon_of_each_expert_by_itself_and_adamw_of_the_rest() -> None:
    """Four steps at changing rates, against formulas in float64 and torch's AdamW."""
    steps, momentum, decay, factor = 4, 0.9, 0.3, 2.0
    muon = MuonSettings(momentum=momentum, learning_rate_factor=factor, newton_schulz_steps=3)
    model, twin = small_model(), small_model()
    optimizer = build_optimizer(model, settings_of(weight_decay=decay, muon=muon))
    expected = {n: blocks(n, p) for n, p in model.named_parameters() if is_hidden(n)}
    means = {name: [np.zeros_like(b) for b in parts] for name, parts in expected.items()}
    rest = {n: p for n, p in twin.named_parameters() if not is_hidden(n)}
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest.values() if p.ndim > 1]},
            {"params": [p for p in rest.values() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        weight_decay=decay,
    )
    for step in range(steps):
        rate = 1e-2 * (step + 1)
        random_gradients(model, step)
        random_gradients(twin, step)
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        for name, parts in expected.items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            for index, given in enumerate(blocks(name, gradient)):
                means[name][index] = momentum * means[name][index] + (1 - momentum) * given
                ahead = (1 - momentum) * given + momentum * means[name][index]
                update = orthogonal_factor(ahead, 3) * 0.2 * math.sqrt(max(given.shape))
                parts[index] = parts[index] * (1 - factor * rate * decay) - factor * rate * update
        set_learning_rate(optimizer, rate)
        optimizer.step()
    for name, parts in expected.items():
        found = np.concatenate(blocks(name, model.get_parameter(name)))
        np.testing.assert_allclose(found, np.concatenate(parts), atol=1e-5, err_msg=name)
    for name, parameter in rest.items():
        torch.testing.assert_close(model.get_parameter(name), parameter, msg=name)


def after_a_step(change: float) -> SteelForCausalLM:
    """A model whose second expert had a gradient changed by so much."""
    model = small_model()
    optimizer = build_optimizer(model, settings_of())
    random_gradients(model, 7)
    for name, parameter in model.named_parameters():
        if "experts" in name:
            assert parameter.grad is not None
            parameter.grad[WIDTH : 2 * WIDTH] += change * torch.arange(float(HIDDEN))
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    return model


def test_no_expert_feels_the_gradient_of_another() -> None:
    first, second = after_a_step(0.0), after_a_step(10.0)
    for name, one in first.named_parameters():
        if "experts" in name:
            other = second.get_parameter(name)
            equal = [torch.equal(a, b) for a, b in zip(one.chunk(3), other.chunk(3), strict=True)]
            assert equal == [True, False, True], name


def test_an_expert_without_a_gradient_stays_where_it_is() -> None:
    model = small_model()
    optimizer = build_optimizer(model, settings_of(weight_decay=0.0))
    random_gradients(model, 7)
    weight = model.get_parameter("model.layers.0.mlp.experts.up_out")
    assert weight.grad is not None
    weight.grad[:WIDTH] = 0
    before = weight.detach().clone()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(weight.chunk(3), before.chunk(3), strict=True)]
    assert moved == [False, True, True]


def test_weights_without_a_gradient_are_left_alone_and_the_others_are_not() -> None:
    model = small_model()
    optimizer = build_optimizer(model, settings_of())
    random_gradients(model, 7)
    still = model.get_parameter("model.layers.1.self_attn.q_proj.weight")
    still.grad = None
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == before.keys() - {"model.layers.1.self_attn.q_proj.weight"}


def test_state_is_one_momentum_of_matrices_and_adamws_moments_of_the_rest() -> None:
    model = small_model()
    optimizer = build_optimizer(model, settings_of())
    assert isinstance(optimizer, MuonAndAdamW)
    for name, parameter in model.named_parameters():
        kinds = {"momentum"} if is_hidden(name) else {"exp_avg", "exp_avg_sq"}
        assert optimizer.state[parameter].keys() == kinds | {"step"}, name
    random_gradients(model, 7)
    optimizer.step()
    optimizer.step()
    assert {float(optimizer.state[p]["step"]) for p in model.parameters()} == {2.0}


def test_the_schedule_moves_both_rates() -> None:
    optimizer = build_optimizer(
        small_model(), settings_of(muon=MuonSettings(learning_rate_factor=5.0))
    )
    set_learning_rate(optimizer, 0.25)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [1.25, 0.25, 0.25]


def test_updates_have_the_root_mean_square_of_adamw() -> None:
    model = small_model()
    optimizer = build_optimizer(model, settings_of(weight_decay=0.0))
    random_gradients(model, 7)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_learning_rate(optimizer, 1e-2)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if is_hidden(name):
            rms = float((parameter - before[name]).detach().square().mean().sqrt())
            assert 0.5 < rms / (0.2 * 1e-2) < 1.3, name


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_makes_the_same_updates(precision: str) -> None:
    """fp32 is the CPU's up to rounding; bf16 is off by its own, which five steps enlarge."""
    moved = []
    for device in ("cpu", "cuda"):
        model = small_model()
        random_gradients(model, 7)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        model.to(device)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            gradient = gradients[name]
            assert gradient is not None
            parameter.grad = gradient.to(device)
        of_device = precision if device == "cuda" else "fp32"
        optimizer = build_optimizer(model, settings_of(precision=of_device, weight_decay=0.0))
        optimizer.step()
        moved.append({n: (p - before[n]).detach().cpu() for n, p in model.named_parameters()})
    for name, expected in moved[0].items():
        if is_hidden(name):
            difference = float((moved[1][name] - expected).norm() / expected.norm())
            assert difference < (0.1 if precision == "bf16" else 1e-3), name


def test_a_model_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(ConfigError, match="optimizer = muon"):
        build_optimizer(nn.Embedding(4, 3), settings_of())


def test_a_model_of_nothing_else_trains() -> None:
    layer = nn.Linear(4, 3, bias=False)
    optimizer = build_optimizer(layer, settings_of(weight_decay=0.0))
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones_like(layer.weight)
    set_learning_rate(optimizer, 1.0)
    optimizer.step()
    assert bool((layer.weight < before).all())
