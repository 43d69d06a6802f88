"""Trying out an architecture before it trains: a tiny model of it, on a few tokens.

        row 0   a a a … b b b … c c c c …      three documents
        row 1   d d d d … e e e …              two

        whole        all numbers are finite, and every weight has a gradient
        causal       other tokens from the middle of c on: the losses before stay
        next token   the loss is the one that the model itself computes, a router's included
        separate     other tokens in a and b: the loss of c stays; no gradient of it reaches them;
                     and c has the loss that it has alone

What an architecture does with positions, masks, windows, states and convolutions shows in these
numbers, whatever its documentation says. Values are compared in fp32 on the CPU; where training has
a GPU, gradients show what the kernel there lets through.
"""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common.errors import ConfigError
from model.attention import check_causal, choose_attention
from model.data.dataset import IGNORED
from model.train.architectures.tiny import tiny_config
from model.train.architectures.tokens import ROWS, SEED, ProbeTokens, other_tokens, probe_tokens
from model.train.config import PretrainSettings
from model.train.distributed.initialise import RandomWeights, children_first
from model.train.loss import Losses, ModelWithLoss
from model.train.model_settings import ON_CPU, one_line

log = logging.getLogger(__name__)

CPU = torch.device("cpu")

TOLERANCE = 1e-5
"""Largest difference of two mean losses that should be equal, relative to 1 + the loss. Rounding
in fp32 makes 1e-6, a leak 1e-4 and more."""
GRADIENT_TOLERANCE = 1e-7
"""Largest gradient that may reach another document, relative to the document's own largest."""
MAX_PARAMETERS = 250_000_000
"""Largest tiny model that is tried; fp32, so 1 GB of weights and as much of gradients."""

SEPARATE = (
    "set separate_documents: false if documents of a row may see each other, choose another "
    "attn_implementation"
)
SEEN = "lets documents that share a row see each other: "
OTHER = "choose another model_type: docs/pretraining.md lists those that are tested"

_passed: set[tuple[Any, ...]] = set()
"""Configs that were tried in this process already, and passed."""


class UnfitError(Exception):
    """An architecture fails a check.

    Its first argument is the rest of a sentence that begins with the architecture; its second is
    true where the check concerns documents that share a row.
    """


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
        config,
        attention=choose_attention(
            requested if requested in ON_CPU else "auto",
            config,
            device=CPU,
            dtype=torch.float32,
            separate_documents=settings.separate_documents,
        ),
        separate_documents=settings.separate_documents and not has_gpu,
    )


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
    with _refusing(config, attention), _quietly():
        model = tiny_model(config, attention)
        _check_whole(model, separate_documents)
        if separate_documents:
            _check_separate(model)
    _passed.add(key)


def check_on_gpu(
    config: PreTrainedConfig, *, attention: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse an architecture whose attention does not keep documents apart on the GPU that it will
    train on. Raises ConfigError."""
    with _refusing(config, attention), _quietly():
        model = tiny_model(config, attention, device=device, dtype=dtype)
        _check_reach(model, probe_tokens(model, separate=True))


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
    for shrink_widths in (True, False):
        try:
            model = on_meta(tiny_config(config, shrink_widths=shrink_widths), attention)
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


def _check_whole(model: ModelWithLoss, separate_documents: bool) -> None:
    """The loss is the model's own, finite, causal, and reaches every weight."""
    if separate_documents and not model.takes_positions:
        raise UnfitError("is not told where documents begin (it takes no position_ids)", True)
    probe = probe_tokens(model, separate=separate_documents)
    length = probe.input_ids.shape[1]
    with _router_included(model):
        found = _run(lambda: probe.losses(model))
    everything = found.mean()
    if found.router is not None:
        everything = everything + model.router_weight * found.router
    if not torch.isfinite(everything) or not torch.isfinite(found.by_sample).all():
        raise UnfitError("gives losses that are not finite", False)
    _run(everything.backward)
    _check_gradients(model)

    middle = length - ROWS[0][-1] // 2
    changed = other_tokens(probe.input_ids, probe.marked(0, middle, length))
    for first in (0, middle - 1):  # the nearest alone: a look at one token ahead changes no other
        early = probe.marked(0, first, middle)
        with torch.no_grad():
            before = probe.losses(model, counted=early)
            after = probe.losses(model, ids=changed, counted=early)
        _same(
            before, after, "is not causal: a token changed the loss of tokens before it by {:.1e}"
        )

    alone = probe_tokens(model, separate=False)
    ids = torch.cat([alone.input_ids, alone.labels[:, -1:]], dim=1)[:1]
    with torch.no_grad(), _router_included(model):
        own = _run(lambda: _own_loss(model, ids))
        ours = model(ids[:, :-1], ids[:, 1:])
        # The model's own routing loss counts the last token, which predicts nothing here.
        if ours.router is not None:
            whole = model(ids, torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORED)], dim=1))
            own = own - model.router_weight * whole.router
    difference = float((own - ours.mean()).abs() / (1 + own.abs()))
    if not difference <= TOLERANCE:
        raise UnfitError(
            "computes another loss than Steel, which takes the cross entropy of the next token "
            f"(and a router's loss): they differ by {difference:.1e}",
            False,
        )


def _own_loss(model: ModelWithLoss, ids: Tensor) -> Tensor:
    """The loss of Transformers' own code."""
    options: dict[str, Any] = {"use_cache": False} if _accepts(model.model, "use_cache") else {}
    if model.router_weight:
        options["output_router_logits"] = True
    loss: Tensor = model.model(input_ids=ids, labels=ids, **options).loss
    return loss


def _check_gradients(model: ModelWithLoss) -> None:
    without = []
    for name, parameter in model.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            without.append(name)
        elif not torch.isfinite(parameter.grad).all():
            raise UnfitError(f"gives gradients that are not finite ({name}, for one)", False)
    if without:
        raise UnfitError(
            f"has {len(without)} weights that no text would train ({without[0]}, for one)", False
        )


def _check_separate(model: ModelWithLoss) -> None:
    """Documents that share a row do not see each other."""
    probe = probe_tokens(model, separate=True)
    for row, lengths in enumerate(ROWS):
        start, end = sum(lengths[:-1]), sum(lengths)
        last, first = probe.marked(row, start, end), probe.marked(row, start, start + 1)
        changed = other_tokens(probe.input_ids, probe.marked(row, 0, start))
        with torch.no_grad():
            packed = probe.losses(model, counted=last)
            beside_another = probe.losses(model, ids=changed, counted=last)
            # Its first token alone: what reaches a token or two is lost among all of them.
            begun = probe.losses(model, counted=first)
            begun_beside = probe.losses(model, ids=changed, counted=first)
            alone = model(probe.input_ids[row, start:end][None], probe.labels[row, start:end][None])
        seen = SEEN + "one changed the loss of another by {:.1e}"
        _same(packed, beside_another, seen, True)
        _same(begun, begun_beside, seen, True)
        _same(
            packed,
            alone,
            "does not begin anew at each document of a row: the loss of one was other than alone, "
            "by {:.1e}",
            True,
        )
    _check_reach(model, probe)


def _check_reach(model: ModelWithLoss, probe: ProbeTokens) -> None:
    """No gradient of a document's loss reaches the tokens of another.

    In training mode, where architectures take other ways through their code than in evaluation.
    """
    seen: list[Tensor] = []
    embedding = model.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _, __, output: seen.append(output))
    model.train()
    try:
        for row, lengths in enumerate(ROWS):
            seen.clear()
            own = probe.marked(row, sum(lengths[:-1]), sum(lengths))
            found = _run(functools.partial(probe.losses, model, counted=own))
            if not torch.isfinite(found.total):
                raise UnfitError("gives losses that are not finite", True)
            if not seen or not seen[0].requires_grad:
                return  # it does not call its embedding: its losses above have to do
            (gradient,) = torch.autograd.grad(found.total, seen[:1], materialize_grads=True)
            size = gradient.float().norm(dim=-1)
            outside = size.masked_fill(own, 0).max() / size.max()
            if not outside <= GRADIENT_TOLERANCE:
                raise UnfitError(
                    f"{SEEN}the gradient of the loss of one reaches another "
                    f"({float(outside):.1e} of its own)",
                    True,
                )
    finally:
        hook.remove()
        model.eval()


def _same(one: Losses, other: Losses, message: str, about_documents: bool = False) -> None:
    difference = float((one.mean() - other.mean()).abs() / (1 + one.mean().abs()))
    if not difference <= TOLERANCE:
        raise UnfitError(message.format(difference), about_documents)


def _run(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # whatever code of Transformers raises is this sentence
        raise UnfitError(f"cannot be trained ({one_line(error)})", False) from error


@torch.no_grad()
def _enlarge(model: PreTrainedModel) -> None:
    random = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            inputs = parameter.shape[-1] if parameter.ndim > 1 else 400
            parameter += torch.randn(parameter.shape, generator=random) / inputs**0.5


def _accepts(model: PreTrainedModel, name: str) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


@contextmanager
def _router_included(model: ModelWithLoss) -> Iterator[None]:
    """Let the router's loss be computed as in training, while the model has no dropout."""
    model.training = True
    try:
        yield
    finally:
        model.training = False


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
def _quietly() -> Iterator[None]:
    """Leave random numbers as they are, and keep Transformers from warning about a tiny model."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
