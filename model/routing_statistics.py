"""Soft routing in figures: how evenly experts are weighted, and what the weights decide.

    SoftMoE layer ──adds to──▶ sums [n + 2] ──stacked, all ranks──▶ [layers, n + 2] ──▶ figures
                                 entropies of the tokens' weights, weights by expert, tokens

A router whose weights may be replaced by their mean over all tokens, without another loss, decides
nothing: it is inert (docs/adr/0087). `replaced` makes that experiment.

n = experts of a layer, C_tk = weight of expert k for token t; sums are over tokens.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.soft_moe import SoftMoE

MAX_TABLE = 1024
"""Weights by layer and expert that are measurements of their own; more would be no table."""


@dataclass(kw_only=True)
class RoutingStatistics:
    """The routers of a model on this rank, which note what they give from here on.

    Layers that are recomputed in the backward pass note their tokens twice, with their number: the
    means are the same. Nothing here waits for the device.
    """

    layers: list[SoftMoE]
    """In the model's order, all with as many experts; at least one."""

    @staticmethod
    def of(model: nn.Module, device: torch.device) -> "RoutingStatistics | None":
        """Watch the routers of a model whose weights have their place; None where it has none, or
        one expert, between which nothing is to be decided."""
        layers = [
            module
            for module in model.modules()
            if isinstance(module, SoftMoE)
            and module.routing != "uniform"
            and module.num_experts > 1
        ]
        for layer in layers:
            layer.sums = torch.zeros(layer.num_experts + 2, dtype=torch.float64, device=device)
        return RoutingStatistics(layers=layers) if layers else None

    @property
    def num_experts(self) -> int:
        """Experts of a layer."""
        return self.layers[0].num_experts

    @property
    def replaceable(self) -> bool:
        """True if weights may be replaced: a routing over the sequence dispatches tokens to slots
        by the same logits, and its parallel loss is none of a language model."""
        return self.layers[0].routing == "token"

    def start(self) -> None:
        """Forget what was noted."""
        for layer in self.layers:
            assert layer.sums is not None
            layer.sums.zero_()

    def sums(self) -> Tensor:
        """Sums noted since `start`, float64 [layers, n + 2]: to be added up over ranks."""
        return torch.stack([layer.sums for layer in self.layers if layer.sums is not None])

    @contextlib.contextmanager
    def replaced(self, sums: Tensor) -> Iterator[None]:
        """Give every token its layer's mean weights in `sums`, [layers, n + 2] over all ranks."""
        try:
            for layer, weights in zip(self.layers, mean_weights(sums), strict=True):
                layer.fixed_weights = weights.float()
            yield
        finally:
            for layer in self.layers:
                layer.fixed_weights = None

    def figures(self, sums: Tensor) -> dict[str, float]:
        """Measurements of `sums`, [layers, n + 2] over all ranks.

        Entropy of a token's weights over that of even ones, log n: mean over tokens and layers, in
        [0, 1]. Smallest and largest of the layers' mean weights by expert.
        """
        weights = mean_weights(sums)
        return {
            "routing/entropy": float(self._entropies(sums).mean()),
            "routing/smallest_weight": float(weights.min()),
            "routing/largest_weight": float(weights.max()),
        }

    def figures_by_layer(self, sums: Tensor) -> dict[str, float]:
        """The same by layer, counted from 0, and the mean weight of each expert in it."""
        found = {
            f"routing_layers/entropy_{layer}": value
            for layer, value in enumerate(self._entropies(sums).tolist())
        }
        if len(self.layers) * self.num_experts > MAX_TABLE:
            return found
        return found | {
            f"routing_layers/weight_{layer}_{expert}": value
            for layer, row in enumerate(mean_weights(sums).tolist())
            for expert, value in enumerate(row)
        }

    def _entropies(self, sums: Tensor) -> Tensor:
        return sums[:, 0] / sums[:, -1] / math.log(self.num_experts)


def mean_weights(sums: Tensor) -> Tensor:
    """Mean weights by layer and expert of sums [layers, n + 2]: float64 [layers, n]."""
    return sums[:, 1:-1] / sums[:, -1:]
