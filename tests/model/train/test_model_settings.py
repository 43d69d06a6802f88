"""The setting `model`, checked and sized without Transformers as with it."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.errors import ConfigError
from model.train.config import PretrainSettings
from model.train.model_settings import check_model, model_config, num_parameters

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 64}


@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_key_value_heads": 1, "head_dim": 8},
        {"tie_word_embeddings": True},
        {"routing": "dense"},
        {"routing": "sequence", "num_experts": 3, "slots_per_expert": 2, "learn_gain": True},
        {"model_type": "qwen2", "num_key_value_heads": 1, "intermediate_size": 48},
    ],
)
def test_the_number_of_parameters_is_that_of_the_network(change: dict[str, Any]) -> None:
    settings = PretrainSettings(model={**SMALL, **change})
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(model_config(settings, {}))
    assert num_parameters(settings) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"layers": 3}, "steel has no config field 'layers'"),
        ({"model_type": "steal"}, "model_type 'steal' is unknown"),
        ({"hidden_size": "32"}, "hidden_size = '32'; it must be a whole number"),
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads"),
        ({"num_experts": 0}, "num_experts = 0; it must be a whole number of at least 1"),
        ({"rope_theta": float("nan")}, "rope_theta = nan; it must be a number"),
        ({"routing": "tokne"}, r"routing = 'tokne'; .* \(did you mean 'token'\?\)"),
        ({"pad_head_dim": 20}, "pad_head_dim is 20"),
        ({"kernels": "tritn"}, "kernels asks for implementation 'tritn'"),
        ({"kernels": {"ropes": "eager"}}, "unknown operation 'ropes'"),
    ],
)
def test_wrong_fields_are_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_model(PretrainSettings(model=model))


@pytest.mark.parametrize("model", [{}, SMALL, {"kernels": {"rope": "eager"}}, {"dtype": "float32"}])
def test_sound_fields_are_accepted(model: dict[str, Any]) -> None:
    check_model(PretrainSettings(model=model))
