"""Loading of a Transformers folder for fine-tuning, evaluation, chat and export."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import ConfigError, DataError
from model.attention import check_causal, check_runnable
from model.cudnn_attention import CUDNN

INDEX = "model.safetensors.index.json"


def load_config(folder: str | Path) -> PreTrainedConfig:
    """Load the config of a causal language model, without what it says about code in the folder.

    A config that asks for cuDNN's attention is given torch's own choice: what is loaded here reads
    rows of every length, and cuDNN would plan anew for each.
    Raises ConfigError for an architecture that this Transformers has no code or package for.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"the model in {folder} is none that this version of Transformers can build without "
            f"code from the folder ({_short(error)})"
        ) from error
    # Saved with another model, it would name files that are not beside that one.
    vars(config).pop("auto_map", None)
    check_causal(config)
    assert isinstance(config, PreTrainedConfig)
    if config._attn_implementation == CUDNN:
        config._attn_implementation = "sdpa"
    return config


def load_causal_lm(
    folder: str | Path, dtype: torch.dtype | str, device: torch.device
) -> PreTrainedModel:
    """Load a causal language model on the CPU, to be moved to `device`.

    dtype: of its weights; "auto" is that of the files.

    Raises ConfigError for an architecture that this Transformers has no code or package for, and
    for an attention in its config that `device` cannot compute; DataError for weights that are
    pickled, damaged, missing, of another shape than the config says, or too many: Transformers
    would start those that it does not find at random.
    """
    config = load_config(folder)
    check_runnable(config, device)
    check_weight_files(Path(folder))
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would report is an error here
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except ImportError as error:
        raise ConfigError(f"the model in {folder} cannot be loaded: {_short(error)}") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"the weights in {folder} cannot be read: {_short(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _refuse_misfits(folder, report)
    assert isinstance(loaded, PreTrainedModel)
    check_runnable(loaded.config, device)
    return loaded


def check_weight_files(folder: Path) -> None:
    """Refuse a folder without safetensors, or with fewer than its index names. Raises DataError."""
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(weight_map.values()))
            absent = [name for name in names if not (folder / name).is_file()]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{index} cannot be read: {error}") from error
        if absent:
            raise DataError(f"{index} names {absent[0]}, which is not in {folder}: copy it there")
    elif not any(folder.glob("*.safetensors")):
        pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
        why = (
            f"only pickled weights ({pickled[0].name}), which run code when they are opened: turn "
            "them into safetensors where you trust their source"
            if pickled
            else "no weights (model.safetensors): is it complete?"
        )
        raise DataError(f"{folder} has {why}")


def _refuse_misfits(folder: str | Path, report: dict[str, object]) -> None:
    what = {
        "missing_keys": "lacks",
        "mismatched_keys": "has in another shape than config.json says",
        "unexpected_keys": "has, but the model of its config.json has not,",
        "error_msgs": "could not be loaded:",
    }
    for kind, words in what.items():
        found = report.get(kind)
        names = [name if isinstance(name, str) else str(name[0]) for name in found or ()]  # type: ignore[attr-defined]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DataError(
                f"the model in {folder} {words} {', '.join(sorted(names)[:3])}{more}: weights and "
                "config.json do not belong together, or files are incomplete"
            )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
