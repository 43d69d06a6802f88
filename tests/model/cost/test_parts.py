"""Parameters and FLOPs by arithmetic, against the models themselves; GPUs by name."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from model.config import SteelConfig
from model.cost.gpus import GPUS, gpu_of_driver, gpu_of_word
from model.cost.parts import flops_per_token, parameters_of
from model.cost.training import checkpoint_bytes, forecast
from model.modeling_steel import SteelForCausalLM
from model.train.architectures import probe
from model.train.callbacks.speed import flops_per_token as flops_of_model
from model.train.config import PretrainSettings
from model.train.model_settings import model_config
from model.train.optim.parameters import num_hidden

PARTS = {
    "embed_tokens": "embedding",
    "self_attn": "attention",
    "experts": "ffn",
    "phi": "router",
    "scale": "router",
    "gain": "router",
    "norm": "norms",
    "lm_head": "head",
    "mlp": "ffn",
}
"""Word in a parameter's name -> its part; the first that fits."""


def on_meta(config: SteelConfig) -> SteelForCausalLM:
    """The model without memory."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return SteelForCausalLM(config)


@settings(max_examples=12, deadline=None)
@given(
    routing=st.sampled_from(["token", "sequence", "reference_norm", "uniform", "dense"]),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 3)]),
    fields=st.fixed_dictionaries(
        {
            "vocab_size": st.integers(1, 300),
            "num_hidden_layers": st.integers(1, 3),
            "num_experts": st.integers(1, 5),
            "slots_per_expert": st.integers(1, 3),
            "expert_intermediate_size": st.integers(1, 30),
            "tie_word_embeddings": st.booleans(),
            "learn_gain": st.booleans(),
        }
    ),
)
def test_parts_and_flops_are_those_of_the_model(
    routing: str, heads: tuple[int, int], fields: dict[str, Any]
) -> None:
    query, key_value = heads
    config = SteelConfig(
        hidden_size=8 * query,
        num_attention_heads=query,
        num_key_value_heads=key_value,
        routing=routing,
        **fields,
    )
    network, found = on_meta(config), parameters_of(config)
    counted = dict.fromkeys(PARTS.values(), 0)
    for name, parameter in network.named_parameters():
        counted[next(part for word, part in PARTS.items() if word in name)] += parameter.numel()
    assert counted == {part: getattr(found, part) for part in counted}
    assert found.total == sum(p.numel() for p in network.parameters()) == config.num_parameters()
    other_rows = 0 if config.tie_word_embeddings else (config.vocab_size - 1) * config.hidden_size
    assert found.active == found.total - other_rows
    assert flops_per_token(config, 64) == pytest.approx(flops_of_model(network, 64), rel=1e-12)


def test_table_1_has_the_papers_parameters() -> None:
    found = parameters_of(SteelConfig())
    assert round(found.total / 1e9, 2) == 1.12
    assert found.embedding == found.head == 151_936 * 1792


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("h100", "H100"),
        ("H100-PCIe", "H100 PCIe"),
        ("4090", "RTX 4090"),
        ("rtx 4090", "RTX 4090"),
        ("910B", "Ascend 910B"),
        ("a800", "A800"),
    ],
)
def test_a_gpu_is_found_by_the_word_people_use(word: str, name: str) -> None:
    assert gpu_of_word(word).name == name


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"h1000.*did you mean 'h100'.*rtx4090"):
        gpu_of_word("h1000")


def test_the_longer_name_of_a_driver_counts() -> None:
    assert gpu_of_driver("NVIDIA H100 PCIe").flops == 756e12
    assert gpu_of_driver("NVIDIA H100 80GB HBM3").flops == 989e12
    assert gpu_of_driver("Intel Xeon") is None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA H800 PCIe", "H800 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA GB300", None),
        ("NVIDIA B200", "B200"),
    ],
)
def test_a_name_that_holds_anothers_is_not_taken_for_it(driver: str, name: str | None) -> None:
    found = gpu_of_driver(driver)
    assert (found and found.name) == name


def test_every_price_and_figure_has_a_source() -> None:
    for gpu in GPUS:
        assert gpu.source.startswith("https://")
        assert (gpu.price is None) == (not gpu.price_source)
        if gpu.price is not None:
            assert 0 < gpu.price[0] <= gpu.price[1]
            assert any(year in gpu.price_source for year in ("2025", "2026")), "no date"


@pytest.mark.parametrize("model", [{}, {"model_type": "qwen2", "num_hidden_layers": 2}])
def test_moments_of_any_architecture_are_counted(model: dict[str, Any]) -> None:
    """AdamW has two for each parameter, Muon one for those of hidden matrices."""
    found = [
        forecast(PretrainSettings(model=model, optimizer=name), vocabulary=1024, steps=1)  # type: ignore[arg-type]
        for name in ("adamw", "muon")
    ]
    network = probe.on_meta(model_config(PretrainSettings(model=model), {"vocab_size": 1024}))
    assert found[0].moments == 2
    assert 2 - found[1].moments == num_hidden(network) / found[1].parameters["total"] > 0.5
    sizes = [
        next(iter(checkpoint_bytes(PretrainSettings(), 10**4, 1.0, one.moments).values()))
        for one in found
    ]
    assert sizes[1] / sizes[0] == pytest.approx((1 + found[1].moments) / 3)
