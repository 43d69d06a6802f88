"""Products that share an operand, separate and merged: whole layers of Table 1.

python -m benchmarks.kernels.bench_merged [--json out.json]

Each candidate is the model's own code with the kernels that `auto` takes, weights put side by side
and their gradients taken apart in each call: what `merged_products` costs and spares in a training
(model/merged_products.py). TFLOP/s are those of the matrix products.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.kernels._comparison import Case, run
from benchmarks.kernels._timing import Setup
from model import SteelConfig
from model.architecture import MergedProduct
from model.kernels import choose
from model.kernels.rope import rope_angles
from model.merged_products import merge_products
from model.modeling_steel import SteelAttention
from model.soft_moe import DenseFFN, Experts

CPU_SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "expert_intermediate_size": 64,
}
"""As a small model that a CPU trains; more would take minutes."""


class _Projections(nn.Module):
    """The part of attention in front of the scores."""

    def __init__(self, config: SteelConfig) -> None:
        super().__init__()
        self.attention = SteelAttention(config, 0, choose("auto"))
        del self.attention.o_proj

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.project(x, cos, sin)


def cases(setup: Setup) -> list[Case]:
    """8 rows of 2,048 tokens: queries, keys and values; all experts; the dense FFN."""
    rows, length = (4, 128) if setup.tiny else (8, 2048)
    config = SteelConfig(**(CPU_SIZES if setup.tiny else {}))
    kernels, tokens, d = choose("auto"), rows * length, config.hidden_size
    assert config.head_dim is not None

    def x(*shape: int) -> Tensor:
        return setup.random(*shape, d)

    def project_inputs() -> tuple[Tensor, ...]:
        positions = torch.arange(length, device=setup.device).unsqueeze(0)
        assert config.head_dim is not None
        return x(rows, length), *rope_angles(positions, config.head_dim, 1e6)

    def expert_inputs() -> tuple[Tensor, ...]:
        weights = torch.rand(tokens, config.num_experts, device=setup.device)
        return x(tokens), weights.softmax(dim=-1).requires_grad_()

    inner = config.num_experts * config.expert_intermediate_size
    return [
        _case(
            "merged qkv",
            setup,
            lambda: _Projections(config),
            project_inputs,
            [("qkv",)],
            6 * tokens * d * d,
        ),
        _case(
            "merged experts",
            setup,
            lambda: Experts(config, kernels),
            expert_inputs,
            [("ffn_in",), ("ffn_out",), ("ffn_in", "ffn_out")],
            8 * tokens * d * inner,
        ),
        _case(
            "merged dense FFN",
            setup,
            lambda: DenseFFN(config, kernels),
            lambda: (x(tokens),),
            [("ffn_in",)],
            6 * tokens * d * config.dense_intermediate_size,
        ),
    ]


def _case(
    name: str,
    setup: Setup,
    make_module: Callable[[], nn.Module],
    make_inputs: Callable[[], tuple[Tensor, ...]],
    merges: list[tuple[MergedProduct, ...]],
    flops: int,
) -> Case:
    with torch.device("meta"):
        weights = {key: tuple(p.shape) for key, p in make_module().named_parameters()}

    def make() -> tuple[Tensor, ...]:
        inputs = make_inputs()
        # Outputs of the size of the inputs: experts multiply four products.
        scale = inputs[0].shape[-1] ** -0.5
        return *inputs, *(setup.random(*shape, scale=scale) for shape in weights.values())

    def candidate(products: tuple[MergedProduct, ...]) -> Callable[..., Any]:
        with torch.device("meta"):
            module = make_module()
        merge_products(module, products)

        def call(*arguments: Tensor) -> Any:
            inputs, values = arguments[: -len(weights)], arguments[-len(weights) :]
            return functional_call(module, dict(zip(weights, values, strict=True)), inputs)

        return call

    candidates: dict[str, Callable[..., Any] | str] = {"separate": candidate(())}
    candidates |= {" + ".join(products): candidate(products) for products in merges}
    if setup.compiled:
        separate, merged = candidate(()), candidate(merges[-1])
        candidates["separate, compiled"] = torch.compile(separate, dynamic=False)
        candidates[f"{' + '.join(merges[-1])}, compiled"] = torch.compile(merged, dynamic=False)
    return Case(
        name=name, operation="merged", candidates=candidates, make=make, forward_flops=flops
    )


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_merged")
