"""SteelConfig: Table 1's size, arithmetic of parameters, refusals, and a trip through a file."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from common.errors import ConfigError
from model import SteelConfig, SteelForCausalLM

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
TABLE_1 = {
    "vocab_size": 151_936,
    "hidden_size": 1792,
    "num_hidden_layers": 18,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 56,
    "expert_intermediate_size": 448,
    "num_experts": 6,
    "slots_per_expert": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}


def num_parameters_built(config: SteelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SteelForCausalLM(config).parameters())


def test_table_1_has_1_12_billion_parameters() -> None:
    config = SteelConfig()
    assert {name: getattr(config, name) for name in TABLE_1} == TABLE_1
    built = num_parameters_built(config)
    assert round(built / 1e9, 2) == 1.12
    assert config.num_parameters() == built


def test_table_1_with_its_printed_width_would_have_twice_as_many() -> None:
    assert SteelConfig(expert_intermediate_size=1792).num_parameters() > 2.1e9


def test_dense_baseline_has_as_many_parameters_as_table_1() -> None:
    routed = SteelConfig().num_parameters()
    dense = SteelConfig(routing="dense").num_parameters()
    router = 18 * (1792 * 6 + 1)
    assert routed - dense == router


def test_even_routing_has_the_experts_of_table_1_and_nothing_else_to_learn() -> None:
    routed = SteelConfig().num_parameters()
    assert routed - SteelConfig(routing="uniform").num_parameters() == 18 * (1792 * 6 + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"routing": "dense"},
        {"routing": "uniform", "learn_gain": True},
        {"learn_gain": True, "slots_per_expert": 3},
        {"num_key_value_heads": 2, "head_dim": 6},
        {"tie_word_embeddings": True},
        {"expert_intermediate_size": 5, "num_experts": 7},
    ],
)
def test_arithmetic_of_parameters_agrees_with_the_built_model(changes: dict[str, object]) -> None:
    config = SteelConfig(**{**SMALL, **changes})
    model = SteelForCausalLM(config)
    assert config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"routing": "sequenc"}, "routing"),
        ({"routing": "dense", "expert_init": "zero"}, "expert_init"),
        ({"num_experts": 0}, "num_experts"),
        ({"hidden_size": 16.5}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 5}, "head_dim"),
        ({"gain": 0.0}, "gain"),
        ({"gain": float("nan")}, "gain"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"kernels": "fast"}, "fast"),
        ({"kernels": {"rotary": "eager"}}, "rotary"),
        ({"kernels": {"rope": "fast"}}, "rope"),
    ],
)
def test_wrong_values_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SteelConfig(**{**SMALL, **changes})


def test_survives_a_file_and_is_found_by_its_model_type(tmp_path: Path) -> None:
    config = SteelConfig(
        **SMALL, routing="sequence", gain=2.5, kernels={"rope": "eager"}, decode_with_cache=True
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SteelConfig
    assert config.to_dict() == {**loaded.to_dict(), "_name_or_path": ""}


def test_head_shapes_follow_from_the_width_unless_given() -> None:
    config = SteelConfig(**SMALL)
    assert (config.head_dim, config.num_key_value_heads) == (4, 4)
    assert SteelConfig().head_dim == 56
