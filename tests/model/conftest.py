"""Small models that every test of the model may build."""

import warnings
from collections.abc import Callable

import pytest
import torch

from model import SteelConfig, SteelForCausalLM
from model.soft_moe import LeakWarning

VOCABULARY = 61


@pytest.fixture
def make_model() -> Callable[..., SteelForCausalLM]:
    """Build an evaluation-mode model of 2 layers from a fixed seed; keywords change its config."""

    def build(seed: int = 0, **changes: object) -> SteelForCausalLM:
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "expert_intermediate_size": 10,
            "num_experts": 3,
            "max_position_embeddings": 64,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeakWarning)
            return SteelForCausalLM(SteelConfig(**{**shape, **changes})).eval()

    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids [3, 12] of a fixed seed, none of them special."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, VOCABULARY, (3, 12), generator=generator)
