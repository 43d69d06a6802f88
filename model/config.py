"""Configuration of a Steel model, as Transformers knows it."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from model.architecture import SteelArchitecture
from model.kernels import check_choice


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


# Auto classes read config.json for a tokenizer, too, where no model is loaded.
AutoConfig.register("steel", SteelConfig, exist_ok=True)
