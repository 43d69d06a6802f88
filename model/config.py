"""Configuration of a Steel model: `SteelConfig`, with Table 1 of the paper as `steel_1b()`."""

from typing import Any

from transformers import PreTrainedConfig

from model.architecture import LEAKING_ROUTINGS, Routing, SteelArchitecture
from model.kernels import check_choice

__all__ = ["LEAKING_ROUTINGS", "Routing", "SteelConfig"]


class SteelConfig(SteelArchitecture, PreTrainedConfig):
    """Shape and behaviour of a Steel model; defaults are Table 1 of the paper (1.12 B parameters).

    Raises ConfigError for values out of range or contradictory.
    """

    model_type = "steel"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (Transformers wants a list)

    def __post_init__(self, **kwargs: Any) -> None:
        self.complete()
        check_choice(self.kernels)
        super().__post_init__(**kwargs)

    @classmethod
    def steel_1b(cls, **changes: Any) -> "SteelConfig":
        """Steel-LLM as in Table 1: 1.12 B parameters. `changes` replace single values."""
        table_1 = {
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
            "eos_token_id": 151_643,
            "pad_token_id": 151_643,
        }
        return cls(**{**table_1, **changes})
