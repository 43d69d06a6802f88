"""The setting `model` of a pretraining: checked, sized, and turned into a Transformers config.

Our own architecture is checked and sized without Transformers and torch, which take seconds to
import; they are asked about any other one, and about keys that are not our own.
"""

import contextlib
import functools
import importlib.util
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config import field_types, raise_all, refusal
from common.errors import ConfigError, DataError, shown
from common.paths import display
from common.ranges import fits
from common.reading.files import read_json_object
from model.architecture import SteelArchitecture
from model.train.config import PretrainSettings
from model.train.distributed.gpus import check_fp8, num_gpus, oldest_capability
from model.train.model_sizes import check_parameters, check_sizes

log = logging.getLogger(__name__)

ON_CPU = ("auto", "eager", "sdpa")
"""Values of `attn_implementation` that a CPU has."""
KERNEL_LIBRARIES = ("auto", "eager", "torch", "triton", "liger")
"""Values of `kernels` that need no closer look."""


def check_model(settings: PretrainSettings) -> None:
    """Refuse a wrong `settings.model`, or one that would not train as it should, before the data
    are read. Architectures other than our own are tried out (model/train/architectures/probe.py).

    Raises ConfigError for an unknown architecture, key, value or attention, and for an architecture
    that fails a check; DataError for a wrong folder.
    """
    if settings.attn_implementation not in ON_CPU and not num_gpus():
        raise ConfigError(
            f"pretrain: attn_implementation {settings.attn_implementation!r} needs a GPU, and "
            "there is none here; use auto (on a CPU: sdpa, or eager)"
        )
    if settings.precision == "fp8":
        check_fp8(oldest_capability())
    if isinstance(settings.model, dict):
        check_sizes(settings.model)
    if isinstance(settings.model, str):
        folder = Path(settings.model)
        check_folder(folder)
        if _folder_kind(folder) == SteelArchitecture.model_type:
            return
        config = folder_config(folder)
    elif _is_ours(settings.model):
        _architecture(settings)
        return
    else:
        config = model_config(settings, {})
        if config.model_type == SteelArchitecture.model_type:
            return
    if settings.merged_products:
        raise ConfigError(
            f"pretrain: merged_products = {list(settings.merged_products)} is for Steel's own "
            f"layers, and the model is of model_type {config.model_type!r}; leave it out"
        )
    from model.train.architectures.probe import check_before_start, on_meta

    on_meta(config)
    check_before_start(config, settings, has_gpu=num_gpus() > 0)


def architecture_of(settings: PretrainSettings, **defaults: Any) -> SteelArchitecture | None:
    """Our architecture as `settings.model` describes it; None for another one.

    defaults: fields that the settings leave out. Raises ConfigError.
    """
    if not isinstance(settings.model, dict) or not _is_ours(settings.model):
        return None
    return _architecture(settings, **defaults)


def num_parameters(settings: PretrainSettings) -> int:
    """Number of parameters of a model that starts from random weights; where `vocab_size` is left
    out, without the embedding. Raises ConfigError."""
    assert isinstance(settings.model, dict)
    if _is_ours(settings.model):
        return _architecture(settings, vocab_size=1).num_parameters()
    from model.train.architectures.probe import on_meta, quietly

    with quietly():  # default tokens are none of one row
        try:
            network = on_meta(model_config(settings, {"vocab_size": 1, "pad_token_id": None}))
        except ConfigError:  # an architecture that looks for some token in its vocabulary
            network = on_meta(model_config(settings, {}))
    return sum(parameter.numel() for parameter in network.parameters())


def model_config(settings: PretrainSettings, from_tokenizer: Mapping[str, Any]) -> Any:
    """The Transformers config that `settings.model` describes.

    from_tokenizer: values for the fields that the settings leave out. Raises ConfigError.
    """
    from transformers import CONFIG_MAPPING

    import model.modeling_steel as _registers_auto_classes  # noqa: F401

    assert isinstance(settings.model, dict)
    check_sizes(settings.model)
    given = dict(settings.model)
    kind = given.pop("model_type", SteelArchitecture.model_type)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ConfigError(f"pretrain: model_type {shown(kind)} is unknown to Transformers")
    config_class = CONFIG_MAPPING[kind]
    known = _known_fields(config_class)
    if unknown := sorted(str(key) for key in given.keys() - known):
        raise ConfigError(f"pretrain: {kind} has no config field {shown(unknown[0])} (in `model`)")
    defaults = {"max_position_embeddings": settings.sequence_length, **from_tokenizer}
    if "output_router_logits" in known:  # train a mixture of experts with its router's loss
        defaults["output_router_logits"] = True
    try:
        return config_class(**{**defaults, **given})
    except Exception as error:  # whatever a config class of Transformers raises about its values
        raise ConfigError(f"pretrain: model: {one_line(error)}") from error


def folder_config(folder: Path) -> Any:
    """The config of a pretrained model, of a mixture of experts so that its router's loss is
    trained with. Raises ConfigError for an architecture that Transformers has no code for."""
    from transformers import AutoConfig

    import model.modeling_steel as _registers_auto_classes  # noqa: F401

    kind = _folder_kind(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # code of its own in the folder, a wrong value, a newer version
        raise ConfigError(
            f"pretrain: {folder / 'config.json'}: model_type {kind!r} is none that this version of "
            f"Transformers can build without code from the folder ({one_line(error)})"
        ) from error
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = True
    return config


def one_line(error: BaseException) -> str:
    """An error of a library as a part of a sentence."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _known_fields(config_class: Any) -> frozenset[str]:
    """Fields of a config class: those that it declares, renames, or that its model's code reads.

    Transformers' models read some fields that their configs do not declare (`head_dim`, often).
    """
    known = set(getattr(config_class, "__dataclass_fields__", {}))
    known |= set(config_class.attribute_map or {})
    try:
        known |= set(config_class().to_dict())
    except Exception:  # no config without values: the declared fields have to do
        log.debug("%s has no defaults", config_class.__name__)
    module = config_class.__module__.replace(".configuration_", ".modeling_")
    with contextlib.suppress(ImportError, OSError):  # a family member without code of its own
        if found := importlib.util.find_spec(module):
            code = Path(str(found.origin)).read_text(encoding="utf-8")
            known |= set(re.findall(r"config\.([a-z]\w*)\b(?!\()", code))
            known |= set(re.findall(r'getattr\((?:self\.)?config, "(\w+)"', code))
    return frozenset(field for field in known if not field.startswith("_"))


def _folder_kind(folder: Path) -> Any:
    try:
        return read_json_object(folder / "config.json").get("model_type")
    except DataError as error:
        raise DataError(f"pretrain: no model's config: {error}") from error


def check_folder(folder: Path) -> None:
    """Raise DataError for a folder that holds no model of Transformers."""
    if not (folder / "config.json").is_file():
        raise DataError(
            f"pretrain: model = {str(folder)!r} is no folder of a Transformers model (it has no "
            "config.json)"
        )
    file = folder / "config.json"
    try:
        check_sizes(read_json_object(file), display(file))
    except RecursionError:
        raise DataError(f"{display(file)} is damaged: nested too deeply") from None


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
        check_parameters(architecture.num_parameters(), "model")
    except ConfigError as error:
        raise ConfigError(f"pretrain: model: {error}") from error
    return architecture
