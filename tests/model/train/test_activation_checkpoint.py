"""Recomputing activations changes memory and time, never a gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

import model.modeling_steel as _registers  # noqa: F401
from model.merged_products import merge_products
from model.train.activation_checkpoint import (
    MATRIX_PRODUCTS,
    ActivationCheckpointing,
    checkpoint_activations,
)
from model.train.build_model import decoder_layers

MODELS: dict[str, dict[str, Any]] = {
    "steel": {"num_experts": 3, "expert_intermediate_size": 8, "attention_dropout": 0.2},
    "steel merged": {"num_experts": 3, "expert_intermediate_size": 8, "attention_dropout": 0.2},
    "steel dense": {"routing": "dense", "expert_intermediate_size": 8},
    "qwen2": {"model_type": "qwen2", "intermediate_size": 48, "num_key_value_heads": 2},
    "llama": {"model_type": "llama", "intermediate_size": 48, "num_key_value_heads": 2},
}
IDS = (torch.arange(48).view(2, 24) * 7) % 61


class Counter(TorchDispatchMode):
    """Number of times that each operator ran."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._opname
        self.calls[name] = self.calls.get(name, 0) + 1
        return function(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return sum(
            number
            for name, number in self.calls.items()
            if name in MATRIX_PRODUCTS or ("attention" in name and "backward" not in name)
        )


def build(name: str, amount: ActivationCheckpointing, attention: str = "sdpa") -> nn.Module:
    values = {
        "model_type": "steel",
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        **MODELS[name],
    }
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**values), attn_implementation=attention, dtype=torch.float32
    )
    model.train()
    if name.endswith("merged"):
        merge_products(model, ("qkv", "ffn_in", "ffn_out"))
    checkpoint_activations(decoder_layers(model), amount)  # type: ignore[arg-type]
    return model


def gradients(model: nn.Module) -> tuple[dict[str, Tensor], Counter]:
    """Gradients, and the operators of the backward pass."""
    torch.manual_seed(1)
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    with Counter() as counter:
        loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, counter


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_are_equal(name: str, attention: str) -> None:
    expected, plain = gradients(build(name, "none", attention))
    amounts: tuple[ActivationCheckpointing, ...] = ("selective", "full")
    for amount in amounts:
        found, counted = gradients(build(name, amount, attention))
        assert found.keys() == expected.keys()
        for parameter, gradient in expected.items():
            assert torch.equal(found[parameter], gradient), (amount, parameter)
        if amount == "selective":
            assert counted.products == plain.products, "no product is computed twice"
            assert sum(counted.calls.values()) > sum(plain.calls.values()), "the rest is"
        else:
            assert counted.products > plain.products


def test_names_and_evaluation_are_untouched() -> None:
    plain, wrapped = build("steel", "none"), build("steel", "full")
    assert plain.state_dict().keys() == wrapped.state_dict().keys()
    plain.eval(), wrapped.eval()
    with torch.no_grad():
        expected = plain(input_ids=IDS).logits
        assert torch.equal(wrapped(input_ids=IDS).logits, expected)
