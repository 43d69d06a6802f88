"""Small models of other architectures, as a user would write them under `pretrain.model`."""

import math
from typing import Any
from unittest import mock

from transformers import CONFIG_MAPPING

from model.train.architectures import tiny

WIDE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.02}
DEEPSEEK = {
    **WIDE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}

SMALL: dict[str, dict[str, Any]] = {
    "qwen2": WIDE,
    "qwen3": {**WIDE, "head_dim": 16},
    "llama": {**WIDE, "head_dim": 16},
    "mistral": {**WIDE, "sliding_window": 6},
    "gemma": {**WIDE, "head_dim": 16},
    "gemma2": {**WIDE, "head_dim": 16, "sliding_window": 6},
    "gemma3_text": {**WIDE, "head_dim": 16, "sliding_window": 6},
    "mixtral": {**WIDE, **EXPERTS, "num_local_experts": 4},
    "qwen2_moe": {
        **WIDE,
        **EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {**WIDE, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 16},
    "deepseek_v2": {**DEEPSEEK, "topk_method": "greedy"},
    "deepseek_v3": DEEPSEEK,
    "gpt_neox": {k: v for k, v in WIDE.items() if k != "num_key_value_heads"},
    "phi3": WIDE,
    "olmo2": WIDE,
    "glm4": {**WIDE, "head_dim": 16},
}
"""The architectures of the quick tests."""


GPT_OSS = {**WIDE, "head_dim": 16, "num_local_experts": 4}
"""Its width of 2,880 has few divisors that leave a multiple of 4, which its experts want."""


EXPERTS_IN_FOURS = ("granitemoehybrid", "longcat_flash", "mellum", "solar_open")
"""Their usual widths, made small, would not be the multiple of 4 that their experts want."""


def smallest(kind: str) -> dict[str, Any]:
    """A tiny model of any architecture, from the config that Transformers has for it."""
    if kind == "gpt_oss":
        return GPT_OSS
    num_layers = 8 if kind == "zamba" else 4  # so many until its tied weights are used again
    multiple = 4 if kind in EXPERTS_IN_FOURS else 1
    with (
        mock.patch.object(tiny, "MAX_LAYERS", num_layers),
        mock.patch.object(tiny, "MAX_VOCABULARY", 128),
    ):
        values = tiny.tiny_config(CONFIG_MAPPING[kind](), multiple=multiple).to_dict()
    left_out = ("architectures", "transformers_version", "dtype", "id2label", "label2id")
    given = {
        key: value
        for key, value in values.items()
        if key not in left_out and not key.startswith("_") and is_json(value)
    }
    return {**given, "model_type": kind}


def is_json(value: object) -> bool:
    """Return False for what no file of settings can hold: an infinite `time_step_limit`."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(not isinstance(item, float) or math.isfinite(item) for item in items)
