"""From settings to a model on this rank's device: config, weights, compilation, shards."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import ConfigError
from model.attention import choose_attention
from model.config import SteelConfig
from model.cost.memory import FP32, moments
from model.fp8 import use_fp8
from model.merged_products import merge_products
from model.train.activation_checkpoint import checkpoint_activations
from model.train.architectures.probe import check_before_start, check_on_gpu, on_meta
from model.train.architectures.tested import remarks
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext, distribute, resolve_precision
from model.train.distributed.device import capability_of
from model.train.distributed.gpus import check_fp8
from model.train.distributed.initialise import FolderWeights, RandomWeights
from model.train.distributed.tested_kernels import check_kernels
from model.train.loss import ModelWithLoss
from model.train.model_settings import check_folder, folder_config, model_config
from model.train.optim.parameters import num_hidden

log = logging.getLogger(__name__)


def build_model(
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    *,
    attention: str = "",
) -> tuple[PreTrainedModel, RandomWeights]:
    """The model on the meta device, and where its fp32 weights come from: the seed, or a folder.

    device: where it will run, which decides about its attention, unless `attention` names one that
    was chosen already. Raises ConfigError for an unknown key or architecture, and for fp8 on a
    device without; DataError for an unreadable folder.
    """
    if settings.precision == "fp8":
        check_fp8(capability_of(device))
    folder = Path(settings.model) if isinstance(settings.model, str) else None
    config = config_of(settings, tokenizer)
    dtype = resolve_precision(settings, device)
    attention = attention or choose_attention(
        settings.attn_implementation,
        config,
        device=device,
        dtype=dtype,
        separate_documents=settings.separate_documents,
    )
    language_model = on_meta(config, attention)
    if config.model_type != SteelConfig.model_type:
        try_out(config, settings, attention, device, dtype)
        for remark in remarks(language_model):
            log.warning("model_type %s: %s", config.model_type, remark)
    rows = language_model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise ConfigError(
            f"pretrain: the model has {rows} embeddings, but the packed data's tokenizer has "
            f"{len(tokenizer)} tokens; raise model.vocab_size or leave it out"
        )
    if folder is None:
        return language_model, RandomWeights(language_model, settings.seed)
    weights = FolderWeights(language_model, folder)
    if not weights.missing:
        return language_model, weights
    # Names of an older version of Transformers: only it knows how to turn them into today's.
    log.info("%s: weights have other names (%s), loaded as a whole", folder, weights.missing[0])
    loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        attn_implementation=attention,
        local_files_only=True,
        trust_remote_code=False,
    )
    assert isinstance(loaded, PreTrainedModel)
    return loaded, RandomWeights(loaded, settings.seed)


def config_of(settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The Transformers config of the model. Raises ConfigError and DataError as build_model."""
    if isinstance(settings.model, dict):
        return model_config(settings, tokenizer_values(settings, tokenizer))
    check_folder(Path(settings.model))
    return folder_config(Path(settings.model))


def replace_wrong_kernels(
    settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase, ranks: DistributedContext
) -> None:
    """Test the kernels of the model that is to be built; called by all ranks before they build it
    (model/train/distributed/tested_kernels.py)."""
    check_kernels(
        config_of(settings, tokenizer),
        ranks,
        resolve_precision(settings, ranks.device),
        merged=settings.merged_products,
        self_test=settings.kernels.self_test,
    )


def try_out(
    config: PreTrainedConfig,
    settings: PretrainSettings,
    attention: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Refuse another architecture than ours that would not train as it should, where it will train.

    Raises ConfigError.
    """
    has_gpu = device.type != "cpu"
    check_before_start(config, settings, has_gpu=has_gpu)
    if has_gpu and settings.separate_documents:
        check_on_gpu(config, attention=attention, dtype=dtype, device=device)


def check_memory(
    network: PreTrainedModel, settings: PretrainSettings, ranks: DistributedContext
) -> None:
    """Refuse a model whose fp32 weights and optimizer state alone are more than a rank's memory.

    network: on the meta device. Raises ConfigError.
    """
    width = settings.parallel.width(ranks.world_size, ranks.ranks_per_node)
    num_parameters = network.num_parameters()
    state = moments(settings.optimizer, num_parameters, num_hidden(network))
    needed = FP32 * (num_parameters + state) / width
    if ranks.device.type == "cuda":
        there = float(torch.cuda.get_device_properties(ranks.device).total_memory)
    else:  # ranks of a machine share its memory
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / ranks.ranks_per_node
    if needed > there:
        raise ConfigError(
            f"pretrain: the model has {num_parameters:,} parameters: weights and optimizer state "
            f"take {needed / 2**30:,.0f} GiB of each of {ranks.world_size} rank(s), which have "
            f"{there / 2**30:,.0f} GiB; train a smaller model, or on more ranks"
        )


def tokenizer_values(
    settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Model config fields that follow from the packed data's tokenizer."""
    multiple = settings.vocab_multiple
    return {
        "vocab_size": math.ceil(len(tokenizer) / multiple) * multiple,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def decoder_layers(language_model: PreTrainedModel) -> list[nn.Module]:
    """The repeated blocks: what is sharded, recomputed and compiled as one."""
    names = set(language_model._no_split_modules or ())
    layers = [module for module in language_model.modules() if type(module).__name__ in names]
    if not layers:  # it names none: the list with as many equal modules as the config has layers
        number = getattr(language_model.config.get_text_config(), "num_hidden_layers", 0)
        layers = next(
            (
                list(module)
                for module in language_model.modules()
                if isinstance(module, nn.ModuleList)
                and len(module) == number
                and len({type(layer) for layer in module}) == 1
            ),
            [],
        )
    if not layers:
        raise ConfigError(
            f"pretrain: {type(language_model).__name__} does not name its decoder layers "
            "(_no_split_modules)"
        )
    return layers


def parallelize(
    model_with_loss: ModelWithLoss,
    language_model: PreTrainedModel,
    weights: RandomWeights,
    settings: PretrainSettings,
    ranks: DistributedContext,
) -> None:
    """Merged, recomputed and compiled as the settings say, with its weights, sharded, in training
    mode.

    Raises ConfigError for fp8 in a model without a layer that it is for.
    """
    model_with_loss.train()
    merge_products(language_model, settings.merged_products)
    layers = decoder_layers(language_model)
    if settings.precision == "fp8":
        log.info("fp8: products with %d weights", use_fp8(layers))
        if not settings.compile:
            log.warning(
                "precision: fp8 without compile: true finds scales and rounds in passes of its "
                "own, which may take longer than the products save"
            )
    checkpoint_activations(layers, settings.activation_checkpointing)
    if settings.compile:
        for layer in layers:
            layer.compile()
    distribute(model_with_loss, language_model, layers, weights, settings, ranks)
