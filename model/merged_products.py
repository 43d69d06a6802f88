"""Matrix products of a Steel model that share an operand, merged into one each.

    x ──▶ q, k, v         x ──▶ gate, up of the first layers       h ──▶ gate, up of the second
          ╰─ qkv ─╯                 ╰─ ffn_in ─╯                             ╰─ ffn_out ─╯

One product of n columns is faster on a GPU than two of n / 2: fewer tiles stand half empty at its
end, and the shared operand is read once. In the backward pass one product gives the gradient of the
shared operand, with no addition behind it, and one gives those of all weights.

Weights keep their names, shapes and shards: they are put side by side in each forward pass, behind
FSDP2's all-gather, and their gradient is split in the backward pass. In a layer of Table 1 that
moves 0.15 GB of weights and gradients in bf16, 0.05 ms at 3.3 TB/s (docs/adr/0015), and as long as
nothing is recomputed the copies stay until the backward pass. Sums come in another order, so
results differ by roundings. With `precision: fp8` weights that are side by side share a scale.

Like activation checkpointing this replaces methods of a model that is built, so that its code and
what is exported with it know nothing of it.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.architecture import MergedProduct
from model.fp8 import computes_in_fp8, fp8_linear
from model.modeling_steel import SteelAttention
from model.soft_moe import DenseFFN, Experts


def merge_products(model: nn.Module, products: Iterable[MergedProduct]) -> None:
    """Let all layers of `model` compute these products merged; a product that they have not (the
    second layer of a dense FFN is one already) changes nothing."""
    for module in model.modules():
        for product in products:
            for kind, method, merged in REPLACED[product]:
                if isinstance(module, kind):
                    setattr(module, method, functools.partial(merged, module))


def _project(
    self: SteelAttention, x: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    product = _linear(x, self.q_proj, self.k_proj, self.v_proj)
    num_key_heads = self.k_proj.out_features // self.head_dim
    return self.kernels.rope_qkv(product, num_key_heads, cos, sin)


def _inner(self: DenseFFN, x: Tensor) -> Tensor:
    return self.kernels.swiglu_halves(_linear(x, self.gate_proj, self.up_proj))


def _linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of all layers, side by side."""
    weight = torch.cat([layer.weight for layer in layers])
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    product = fp8_linear if all(map(computes_in_fp8, layers)) else functional.linear
    return product(x, weight, torch.cat(biases) if biases else None)


def _first_layers(self: Experts, x: Tensor) -> Tensor:
    weight = torch.cat((self.gate_in, self.up_in))  # [2 n h, d]
    return self.kernels.swiglu_halves(self.first_layer(x, weight))


def _first_layers_of_slots(self: Experts, slots: Tensor) -> Tensor:
    weight = torch.cat((self.stacked(self.gate_in), self.stacked(self.up_in)), dim=1)  # [n, 2h, d]
    return self.kernels.swiglu_halves(torch.bmm(slots, weight.transpose(1, 2)))


def _second_layers(self: Experts, hidden: Tensor, weights: Tensor) -> Tensor:
    return self.kernels.combine_halves(hidden, _gate_up_out(self), weights)


def _second_layers_of_slots(self: Experts, hidden: Tensor) -> Tensor:
    return self.kernels.swiglu_halves(torch.bmm(hidden, _gate_up_out(self)))


def _gate_up_out(self: Experts) -> Tensor:
    """[n, h, 2d]"""
    return torch.cat((self.stacked(self.gate_out), self.stacked(self.up_out)), dim=-1)


REPLACED: dict[MergedProduct, tuple[tuple[type[nn.Module], str, Callable[..., Any]], ...]] = {
    "qkv": ((SteelAttention, "project", _project),),
    "ffn_in": (
        (DenseFFN, "inner", _inner),
        (Experts, "first_layers", _first_layers),
        (Experts, "first_layers_of_slots", _first_layers_of_slots),
    ),
    "ffn_out": (
        (Experts, "second_layers", _second_layers),
        (Experts, "second_layers_of_slots", _second_layers_of_slots),
    ),
}
"""Product -> class, method and the function that takes its place."""
