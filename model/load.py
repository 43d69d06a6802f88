"""Loading of a Transformers folder for fine-tuning, evaluation and chat."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import ConfigError
from model.attention import check_causal, check_runnable


def load_causal_lm(
    folder: str | Path, dtype: torch.dtype | str, device: torch.device
) -> PreTrainedModel:
    """Load a causal language model on the CPU, to be moved to `device`.

    dtype: of its weights; "auto" is that of the files.

    Raises ConfigError for an architecture that this Transformers has no code or package for, and
    for an attention in its config that `device` cannot compute.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"the model in {folder} is none that this version of Transformers can build without "
            f"code from the folder ({' '.join(str(error).split())[:200]})"
        ) from error
    check_causal(config)
    check_runnable(config, device)
    try:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, trust_remote_code=False, local_files_only=True
        )
    except ImportError as error:
        raise ConfigError(
            f"the model in {folder} cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error
    check_runnable(loaded.config, device)
    return loaded
