"""Trying out an architecture before it trains: a tiny model of it, on a few tokens.

        row 0   a a a … b b b … x x y c c c c …      documents, two of them short
        row 1   d d d d … e e e …

        whole        all numbers are finite, and every weight has a gradient
        causal       other tokens from the middle of c on: the losses before stay
        rows         other tokens in row 1: the loss of row 0 stays
        next token   the loss is the one that the model itself computes, a router's included
        repeated     after all of that, the first tokens have the loss that they had
        separate     other tokens everywhere but in c: its loss stays; no gradient of it reaches
                     them; and c has the loss that it has alone (so with x and e)

What an architecture does with positions, masks, windows, states and convolutions shows in these
numbers, whatever its documentation says (the checks: checks.py). Values are compared in fp32 on the
CPU; where training has a GPU, gradients show what the kernel there lets through.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common.errors import ConfigError
from model.attention import check_causal, choose_attention
from model.train.architectures.checks import (
    UnfitError,
    check_gradients_within_documents,
    check_separate,
    check_whole,
)
from model.train.architectures.tiny import MAX_WINDOW, tiny_config
from model.train.architectures.tokens import SEED, probe_tokens
from model.train.config import PretrainSettings
from model.train.distributed.initialise import RandomWeights, children_first
from model.train.loss import ModelWithLoss
from model.train.model_settings import ON_CPU, one_line

log = logging.getLogger(__name__)

CPU = torch.device("cpu")

MAX_PARAMETERS = 500_000_000
"""Largest tiny model that is tried; fp32, so 2 GB of weights and as much of gradients."""

SEPARATE = (
    "set separate_documents: false if documents of a row may see each other, choose another "
    "attn_implementation"
)
OTHER = "choose another model_type: docs/pretraining.md lists those that are tested"

_passed: set[tuple[Any, ...]] = set()
"""Configs that were tried in this process already, and passed."""


def check_before_start(
    config: PreTrainedConfig, settings: PretrainSettings, *, has_gpu: bool
) -> None:
    """Refuse what can be refused of an architecture without a GPU. Raises ConfigError.

    has_gpu: training will have one, whose attention can only be tried there (`check_on_gpu`).
    """
    requested = settings.attn_implementation
    check_causal(config)
    _check_length(config, settings.sequence_length)
    check_architecture(
        _with_scaling(config, settings.sequence_length),
        attention=choose_attention(
            requested if requested in ON_CPU else "auto",
            config,
            device=CPU,
            dtype=torch.float32,
            separate_documents=settings.separate_documents,
        ),
        separate_documents=settings.separate_documents and not has_gpu,
    )


def _with_scaling(config: PreTrainedConfig, sequence_length: int) -> PreTrainedConfig:
    """The config with queries scaled as early as a tiny model's tokens go, where training's are.

    llama4 scales them every `floor_scale` places, which it counts in the row, not in the document.
    """
    scale = getattr(config.get_text_config(), "floor_scale", None)
    if not isinstance(scale, int | float) or not scale <= sequence_length:
        return config
    changed = copy.deepcopy(config)
    changed.get_text_config().floor_scale = min(scale, MAX_WINDOW)
    return changed


def _check_length(config: PreTrainedConfig, sequence_length: int) -> None:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions"):
        longest = getattr(config.get_text_config(), name, None)
        if isinstance(longest, int) and 0 < longest < sequence_length:
            raise ConfigError(
                f"pretrain: the model's {name} = {longest} is less than sequence_length = "
                f"{sequence_length}: raise it, or shorten the samples"
            )


def check_architecture(
    config: PreTrainedConfig, *, attention: str, separate_documents: bool
) -> None:
    """Refuse an architecture that would not train on the CPU as it should. Raises ConfigError.

    attention: an implementation that a CPU has.
    """
    key = (config.to_json_string(), attention, separate_documents)
    if key in _passed:
        return
    with _refusing(config, attention), quietly():
        model = tiny_model(config, attention)
        _run(lambda: check_whole(model, separate_documents))
        if separate_documents:
            _run(lambda: check_separate(model))
    _passed.add(key)


def check_on_gpu(
    config: PreTrainedConfig, *, attention: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse an architecture whose attention does not keep documents apart on the GPU that it will
    train on. Raises ConfigError."""
    with _refusing(config, attention), quietly():
        model = tiny_model(config, attention, device=device, dtype=dtype)
        _run(lambda: check_gradients_within_documents(model, probe_tokens(model, separate=True)))


def on_meta(config: PreTrainedConfig, attention: str | None = None) -> PreTrainedModel:
    """The model of a config, without memory. Raises ConfigError where it cannot be built."""
    check_causal(config)
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    except Exception as error:  # whatever code of Transformers raises about a config
        raise ConfigError(
            f"pretrain: Transformers cannot build a {config.model_type!r} of the values in `model` "
            f"({one_line(error)})"
        ) from error
    assert isinstance(built, PreTrainedModel)
    return built


def tiny_model(
    config: PreTrainedConfig,
    attention: str,
    *,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> ModelWithLoss:
    """A tiny model of an architecture, in evaluation mode.

    Its weights are larger than at a usual start, and no bias is zero: what attention, routing and
    positions do to a loss then shows. Raises UnfitError.
    """
    problem = ""
    attempts: list[dict[str, Any]] = [
        {},
        {"multiple": 4},
        {"multiple": 8},
        {"shrink_widths": False},
    ]
    for options in attempts:
        try:
            model = on_meta(tiny_config(config, **options), attention)
            size = sum(parameter.numel() for parameter in model.parameters())
            if size > MAX_PARAMETERS:
                problem = problem or f"it has {size:,} parameters"
                continue
            RandomWeights(model, SEED).fill(children_first(model), CPU)
            _enlarge(model)
            tiny = ModelWithLoss(model.to(device=device, dtype=dtype)).eval()
            ids = torch.ones(1, 4, dtype=torch.int64, device=device)
            with torch.no_grad():
                tiny(ids, ids)
        except Exception as error:  # whatever code of Transformers raises is this sentence
            problem = problem or one_line(error)
            continue
        return tiny
    raise UnfitError(f"cannot be tried out on a tiny model of it ({problem})", False)


def _run(check: Callable[[], None]) -> None:
    try:
        check()
    except UnfitError:
        raise
    except Exception as error:  # whatever code of Transformers raises is this sentence
        raise UnfitError(f"cannot be trained ({one_line(error)})", False) from error


@torch.no_grad()
def _enlarge(model: PreTrainedModel) -> None:
    random = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            inputs = parameter.shape[-1] if parameter.ndim > 1 else 400
            parameter += torch.randn(parameter.shape, generator=random) / inputs**0.5


@contextmanager
def _refusing(config: PreTrainedConfig, attention: str) -> Iterator[None]:
    """Turn an UnfitError into a ConfigError with what to do."""
    try:
        yield
    except UnfitError as unfit:
        reason, about_documents = unfit.args
        remedy = f"{SEPARATE}, or {OTHER}" if about_documents else OTHER
        raise ConfigError(
            f"pretrain: model_type {config.model_type!r} with attn_implementation {attention!r} "
            f"{reason}; {remedy}"
        ) from unfit


@contextmanager
def quietly() -> Iterator[None]:
    """Leave random numbers as they are, and let Transformers not warn of a model nobody trains."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
