"""Figures of soft routing against its equations, token by token in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from model import SteelForCausalLM
from model.routing_statistics import RoutingStatistics
from model.soft_moe import SoftMoE
from model.train.activation_checkpoint import checkpoint_activations

Maker = Callable[..., SteelForCausalLM]
CPU = torch.device("cpu")


def sharpened(model: SteelForCausalLM) -> SteelForCausalLM:
    """A router that decides something, differently in each layer."""
    with torch.no_grad():
        for number, layer in enumerate(routed(model)):
            layer.scale.fill_(3.0 + number)
    return model


def routed(model: SteelForCausalLM) -> list[SoftMoE]:
    return [layer.mlp for layer in model.model.layers]


def weights_by_hand(layer: SoftMoE, x: Tensor) -> list[list[float]]:
    """Weights of experts of tokens x [T, d]: the softmax over slots, added up by expert."""
    phi = layer.phi.detach().double().t().tolist()
    scale, slots = float(layer.scale.detach()), layer.slots_per_expert
    found = []
    for token in x.detach().double().tolist():
        length = math.sqrt(sum(v * v for v in token))
        exponentials = [
            math.exp(
                scale
                * sum(a * b for a, b in zip(token, key, strict=True))
                / length
                / math.sqrt(sum(v * v for v in key))
            )
            for key in phi
        ]
        weights = [e / sum(exponentials) for e in exponentials]
        found.append([sum(weights[i : i + slots]) for i in range(0, len(weights), slots)])
    return found


def inputs_of_layers(model: SteelForCausalLM, tokens: Tensor) -> list[Tensor]:
    """Inputs of each routed layer, [T, d]."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, given, __: seen.append(given[0].flatten(0, 1)))
        for layer in routed(model)
    ]
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("routing", ["token", "sequence"])
@pytest.mark.parametrize("slots", [1, 2])
def test_figures_are_those_of_the_weights(
    make_model: Maker, tokens: Tensor, routing: str, slots: int
) -> None:
    model = sharpened(make_model(routing=routing, slots_per_expert=slots))
    fed = inputs_of_layers(model, tokens)
    watched = RoutingStatistics.of(model, CPU)
    assert watched is not None and watched.replaceable == (routing == "token")
    model(tokens)
    watched.start()
    model(tokens)
    entropies, means = [], []
    for layer, x in zip(routed(model), fed, strict=True):
        weights = weights_by_hand(layer, x)
        entropy = [-sum(w * math.log(w) for w in row) / math.log(3) for row in weights]
        entropies.append(sum(entropy) / len(entropy))
        means.append([sum(column) / len(weights) for column in zip(*weights, strict=True)])
    assert watched.figures(watched.sums()) == pytest.approx(
        {
            "routing/entropy": sum(entropies) / 2,
            "routing/smallest_weight": min(map(min, means)),
            "routing/largest_weight": max(map(max, means)),
        },
        rel=1e-5,
    )
    assert watched.figures_by_layer(watched.sums()) == pytest.approx(
        {f"routing_layers/entropy_{i}": value for i, value in enumerate(entropies)}
        | {
            f"routing_layers/weight_{i}_{k}": value
            for i, row in enumerate(means)
            for k, value in enumerate(row)
        },
        rel=1e-5,
    )
    assert entropies[0] != pytest.approx(entropies[1], abs=1e-3), "layers are told apart"


def test_replaced_weights_are_each_layers_mean_until_the_end(
    make_model: Maker, tokens: Tensor
) -> None:
    model = sharpened(make_model(slots_per_expert=2))
    before = model(tokens).logits
    watched = RoutingStatistics.of(model, CPU)
    assert watched is not None
    assert torch.equal(model(tokens).logits, before), "watching changes nothing"
    sums = watched.sums()
    fed: list[tuple[Tensor, Tensor]] = []
    hooks = [
        layer.experts.register_forward_pre_hook(lambda _, given: fed.append(given))
        for layer in routed(model)
    ]
    with watched.replaced(sums):
        model(tokens)
    for hook in hooks:
        hook.remove()
    for row, (x, weights) in zip(sums.tolist(), fed, strict=True):
        assert row[-1] == len(x) == tokens.numel()
        mean = torch.tensor([value / row[-1] for value in row[1:-1]])
        torch.testing.assert_close(weights, mean.expand(len(x), -1))
    assert torch.equal(model(tokens).logits, before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo
@pytest.mark.parametrize("amount", ["none", "selective", "full"])
@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_and_compiled_layers_note_the_same(
    make_model: Maker, tokens: Tensor, amount: Any, compiled: bool
) -> None:
    plain, model = sharpened(make_model()), sharpened(make_model())
    checkpoint_activations(model.model.layers, amount)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    for layer in model.model.layers if compiled else ():
        layer.compile(backend=counter, fullgraph=True)
    found, gradients = [], []
    for one in (plain.train(), model.train()):
        watched = RoutingStatistics.of(one, CPU)
        assert watched is not None
        for _ in range(2):  # micro-batches of a step
            one(tokens, labels=tokens).loss.backward()
        found.append(watched.figures(watched.sums()) | watched.figures_by_layer(watched.sums()))
        gradients.append([p.grad for p in one.parameters()])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    if compiled:
        assert counter.frame_count == 1, "the layers share a graph"


@pytest.mark.parametrize(
    "changes", [{"routing": "dense"}, {"routing": "uniform"}, {"num_experts": 1}]
)
def test_nothing_is_watched_where_nothing_is_decided(
    make_model: Maker, changes: dict[str, Any]
) -> None:
    assert RoutingStatistics.of(make_model(**changes), CPU) is None


def test_what_is_noted_is_no_part_of_the_model(make_model: Maker) -> None:
    model = make_model()
    names = set(model.state_dict())
    RoutingStatistics.of(model, CPU)
    assert set(model.state_dict()) == names
