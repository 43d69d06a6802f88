"""The setting `model` of a pretraining: checked, sized, and turned into a Transformers config.

Our own architecture is checked and sized without Transformers and torch, which take seconds to
import; they are asked about any other one, and about keys that are not our own.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config import field_types, raise_all, refusal
from common.errors import ConfigError, DataError
from common.ranges import fits
from model.architecture import SteelArchitecture
from model.train.config import PretrainSettings

KERNEL_LIBRARIES = ("auto", "eager", "torch", "triton", "liger")
"""Values of `kernels` that need no closer look."""


def check_model(settings: PretrainSettings) -> None:
    """Refuse a wrong `settings.model`, without building it or reading the data.

    Raises ConfigError for an unknown architecture, key or value, DataError for a wrong folder.
    """
    if isinstance(settings.model, str):
        check_folder(Path(settings.model))
    elif _is_ours(settings.model):
        _architecture(settings)
    else:
        model_config(settings, {})


def num_parameters(settings: PretrainSettings) -> int:
    """Number of parameters of a model that starts from random weights; where `vocab_size` is left
    out, without the embedding. Raises ConfigError."""
    assert isinstance(settings.model, dict)
    if _is_ours(settings.model):
        return _architecture(settings, vocab_size=1).num_parameters()
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(model_config(settings, {"vocab_size": 1}))
    return sum(parameter.numel() for parameter in network.parameters())


def model_config(settings: PretrainSettings, from_tokenizer: Mapping[str, Any]) -> Any:
    """The Transformers config that `settings.model` describes.

    from_tokenizer: values for the fields that the settings leave out. Raises ConfigError.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    import model.modeling_steel as _registers_auto_classes  # noqa: F401

    assert isinstance(settings.model, dict)
    given = dict(settings.model)
    kind = given.pop("model_type", SteelArchitecture.model_type)
    try:
        known = set(AutoConfig.for_model(kind).to_dict())
    except ValueError as error:
        raise ConfigError(f"pretrain: model_type {kind!r} is unknown to Transformers") from error
    if unknown := sorted(given.keys() - known):
        raise ConfigError(f"pretrain: {kind} has no config field {unknown[0]!r} (in `model`)")
    defaults = {"max_position_embeddings": settings.sequence_length, **from_tokenizer}
    try:
        return AutoConfig.for_model(kind, **{**defaults, **given})
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"pretrain: model: {error}") from error


def check_folder(folder: Path) -> None:
    """Raise DataError for a folder that holds no model of Transformers."""
    if not (folder / "config.json").is_file():
        raise DataError(
            f"pretrain: model = {str(folder)!r} is no folder of a Transformers model (it has no "
            "config.json)"
        )


@functools.cache
def _own_keys() -> frozenset[str]:
    return frozenset(field_types(SteelArchitecture)) | {"model_type"}


def _is_ours(model: Mapping[str, Any]) -> bool:
    """Return True if a model can be judged without Transformers."""
    return (
        model.get("model_type", SteelArchitecture.model_type) == SteelArchitecture.model_type
        and model.keys() <= _own_keys()
        and model.get("kernels", "auto") in KERNEL_LIBRARIES
    )


def _architecture(settings: PretrainSettings, **defaults: Any) -> SteelArchitecture:
    """Our architecture with the fields of `settings.model`. Raises ConfigError."""
    assert isinstance(settings.model, dict)
    hints = field_types(SteelArchitecture)
    given = {key: value for key, value in settings.model.items() if key != "model_type"}
    raise_all(
        [
            ConfigError(refusal(f"model.{key}", value, hints[key]))
            for key, value in given.items()
            if not fits(value, hints[key])
        ]
    )
    defaults = {"max_position_embeddings": settings.sequence_length, **defaults}
    architecture = SteelArchitecture(**{**defaults, **given})
    try:
        architecture.complete()
    except ConfigError as error:
        raise ConfigError(f"pretrain: model: {error}") from error
    return architecture
