"""Matrices of hidden layers are told from all other weights."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from model.cost.parts import hidden_weights
from model.train.optim.parameters import num_hidden, trained_parameters

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MIXTURE = {
    **SMALL,
    "intermediate_size": 24,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}
PROJECTIONS = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), 1)
EXPERTS = dict.fromkeys(("gate_in", "up_in", "gate_out", "up_out"), 3)
DENSE = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), 1)
CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "steel": (
        {"model_type": "steel", **SMALL, "num_experts": 3, "expert_intermediate_size": 8},
        PROJECTIONS | EXPERTS,
    ),
    "one expert of one unit": (
        {"model_type": "steel", **SMALL, "num_experts": 3, "expert_intermediate_size": 1},
        PROJECTIONS,
    ),
    "dense steel": (
        {"model_type": "steel", **SMALL, "routing": "dense", "expert_intermediate_size": 8},
        PROJECTIONS | DENSE,
    ),
    "tied qwen2": (
        {"model_type": "qwen2", **MIXTURE, "tie_word_embeddings": True},
        PROJECTIONS | DENSE,
    ),
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64},
        {"c_attn": 1, "c_proj": 1, "c_fc": 1},
    ),
    "mixtral": (
        {"model_type": "mixtral", **MIXTURE, "num_local_experts": 5},
        PROJECTIONS | {"gate_up_proj": 5, "experts.down_proj": 5},
    ),
    "qwen2_moe": (  # its shared expert's gate [1, d] is no matrix
        {"model_type": "qwen2_moe", **MIXTURE, "num_experts": 5},
        PROJECTIONS
        | {"experts.gate_up_proj": 5, "experts.down_proj": 5}
        | {f"shared_expert.{name}": number for name, number in DENSE.items()},
    ),
    "afmoe": (  # its router is a linear layer
        {"model_type": "afmoe", **MIXTURE, "num_experts": 5, "num_dense_layers": 0},
        PROJECTIONS
        | {"self_attn.gate_proj": 1, "experts.gate_up_proj": 5, "experts.down_proj": 5}
        | {f"shared_experts.{name}": number for name, number in DENSE.items()},
    ),
    "jetmoe": (  # its routers are linear layers inside of modules of that name
        {"model_type": "jetmoe", **MIXTURE, "kv_channels": 8, "num_local_experts": 5},
        {
            "mlp.input_linear": 5,
            "mlp.output_linear": 5,
            "experts.input_linear": 5,
            "experts.output_linear": 5,
            "kv_proj": 1,
        },
    ),
}


def built(fields: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    return network


@pytest.mark.parametrize("case", CASES)
def test_projections_and_experts_are_hidden_matrices_and_nothing_else(case: str) -> None:
    fields, wanted = CASES[case]
    network = built(fields)
    kinds = trained_parameters(network)
    names = {p: name.removesuffix(".weight") for name, p in network.named_parameters()}
    found = {names[p]: number for p, number in kinds.hidden.items()}
    for name, number in found.items():
        [ending] = [end for end in wanted if name.endswith(f".{end}")][:1] or [name]
        assert wanted.get(ending) == number, name
    for ending in wanted:
        assert any(name.endswith(f".{ending}") for name in found), ending
    others = {names[p] for p in kinds.others}
    assert not [name for name in others if name.endswith(tuple(wanted))]
    assert any("emb" in name or "wte" in name for name in others)
    everything = [*kinds.matrices, *kinds.vectors]
    assert {id(p) for p in everything} == {id(p) for p in network.parameters() if p.requires_grad}
    assert len(everything) == len(set(map(id, everything)))
    assert all(p.ndim == 1 for p in kinds.vectors)


def test_routing_embedding_and_head_are_none() -> None:
    network = built(CASES["steel"][0])
    others = {id(p) for p in trained_parameters(network).others}
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.phi"):
        assert id(network.get_parameter(name)) in others, name


@pytest.mark.parametrize("routing", ["token", "uniform", "dense"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_arithmetic_of_a_plan_counts_the_same(routing: str, tied: bool) -> None:
    fields = {**CASES["steel"][0], "routing": routing, "tie_word_embeddings": tied}
    network = built({**fields, "num_key_value_heads": 1})
    assert num_hidden(network) == hidden_weights(network.config) > 0  # type: ignore[arg-type]


def test_what_is_not_trained_is_no_parameter() -> None:
    network = built(CASES["steel"][0])
    frozen = network.get_parameter("model.layers.0.self_attn.q_proj.weight")
    frozen.requires_grad_(False)
    kinds = trained_parameters(network)
    assert all(p is not frozen for p in [*kinds.matrices, *kinds.vectors])
