"""A Steel model under the names of the published Steel-LLM: the way back of `steel import`.

    this project                                published (modeling_steel.py, softmoe_v3.py)
    mlp.phi [d, n p]                     ──▶    model.layers.N.mlp.phi [d, n, p]
    mlp.experts.gate_in [n h, d]                model.layers.N.mlp.experts.M.gate_up_proj [h, d]
                up_in                                                        up_proj [h, d]
                gate_out                                                     gate_down_proj [d, h]
                up_out                                                       down_proj [d, h]
    all others                                  the same name

The code of that release is not ours to give out: put its files (github.com/zhanshijinwat/Steel-LLM)
beside the weights. It computes `routing: reference_norm`, and no other.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from model.config import SteelConfig
from model.convert import SAME, SAME_OPTIONAL, plan_tensors
from model.export.qwen2 import heads_obstacle

DIVISOR = 4
"""`mlp_div_ratio` of the published config: experts are that much narrower than it says."""


def obstacle(config: PreTrainedConfig) -> str:
    """Say why a model cannot have the published form; "" where it can."""
    if not isinstance(config, SteelConfig):
        return f"it is a {config.model_type} model"
    if config.routing != "reference_norm":
        return (
            f"its routing is {config.routing}, and the published code computes reference_norm: it "
            "would give other logits"
        )
    if config.learn_gain or config.gain != 1.0:
        return "it scales the output of the experts (gain), and the published code does not"
    return heads_obstacle(config)


def published_config(config: SteelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json for the published code; its classes are called like those of Qwen2."""
    same = (*SAME, *SAME_OPTIONAL, "initializer_range", "use_cache")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_steel.Qwen2Config",
            "AutoModelForCausalLM": "modeling_steel.Qwen2ForCausalLM",
        },
        "model_type": "qwen2",
        **{name: getattr(config, name) for name in same},
        "hidden_act": "silu",
        "intermediate_size": DIVISOR * config.expert_intermediate_size,
        "mlp_div_ratio": DIVISOR,
        "n_experts": config.num_experts,
        "FFN_type": "softmoe_v3",
        "mlp_type": "senet",
        "use_sliding_window": False,
        "sliding_window": config.max_position_embeddings,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def published_weights(config: SteelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the published names and shapes."""
    made: dict[str, Tensor] = {}
    for name, parts in plan_tensors(config).items():
        for part, tensor in zip(parts, weights[name].chunk(len(parts)), strict=True):
            whole = tensor.t() if part.transposed else tensor
            # With storage of its own: files of weights hold no views.
            made[part.name] = whole.reshape(part.shape).clone(memory_format=torch.contiguous_format)
    return made
