"""Next-token loss of a causal language model, in the form the trainer and FSDP2 need.

    ids, labels, documents' boundaries ─▶ model's body ─▶ hidden states ─▶ chunked loss (no logits)
                                              └─▶ model's own head ─▶ all logits ─▶ loss, where the
                                                  architecture does more to logits than project

B = samples in the micro-batch, L = sequence length, T = B L, D = model dimension, V = vocabulary.

Sums, not means: how many targets a micro-batch has differs, and a step's loss is the mean over all
targets of all its micro-batches on all ranks (model/train/distributed/step_outcome.py).
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from common.errors import ConfigError
from model.attention import document_bound_arguments, supports_document_bounds
from model.cost.memory import chunk_rows
from model.data.dataset import IGNORED
from model.documents import documents_from_bounds, documents_from_positions
from model.kernels import choose
from model.modeling_steel import SteelForCausalLM

log = logging.getLogger(__name__)

ROUTER_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
"""Names of that weight in Transformers' models and configs."""


class Losses(NamedTuple):
    """Losses of a micro-batch, nats; all tensors on the model's device."""

    total: Tensor
    """Sum over its targets, fp32 scalar, to differentiate; 0 where there is no target."""
    by_sample: Tensor
    """Sum over each sample's targets, fp32 [B], detached."""
    num_targets: Tensor
    """Targets of each sample, int64 [B]: labels that are not IGNORED."""
    router: Tensor | None = None
    """Load balancing loss of a mixture of experts over all tokens, fp32 scalar, to differentiate
    with the weight `ModelWithLoss.router_weight`; None in evaluation, and where there is none."""
    by_token: Tensor | None = None
    """Each target's loss, fp32 [B, L], 0 elsewhere. Detached, unless the call asked for
    `each_target`."""
    statistics: Tensor | None = None
    """Float64 [K], detached: further sums over the same targets (`TrainStep.statistics`)."""

    def mean(self) -> Tensor:
        """Mean over all targets, fp32 scalar; 0 where there is none."""
        return self.total / self.num_targets.sum().clamp_min(1)


class ModelWithLoss(nn.Module):
    """Wraps a model so that one forward call gives the loss.

    It is the root that FSDP2 shards: the projection's weight, which the fused loss reads without
    calling the projection, is gathered by the root's hooks.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        # Not the head itself: its weight would be in the state a second time.
        self.has_plain_head = plain_head(model) is not None
        self.accepted = _accepted(model.base_model if self.has_plain_head else model)
        self.router_weight = router_weight(model)
        """Weight of the router's loss beside the mean cross entropy; 0 where there is none."""
        self.cross_entropy = (
            model.kernels if isinstance(model, SteelForCausalLM) else choose("auto")
        ).cross_entropy

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        target_places: Tensor | None = None,
        each_target: bool = False,
    ) -> Losses:
        """Sums of losses, and the number of targets that they are sums over.

        input_ids and labels [B, L], any integer type; labels are shifted already, IGNORED does not
        count. Documents that a row packs together are kept apart by position_ids [B, L] (from 0 in
        each of them) and cu_seqlens int32 [documents + 1], their bounds among the T tokens, where
        every row's start is one; max_seqlen is the longest. Without them each row is one
        document.

        target_places int64 [targets]: where among the T tokens a label counts, if the caller knows;
        no other place is projected onto the vocabulary then, which most of a prompt's are.
        each_target: `by_token` is to be differentiated (by what weighs targets unequally).
        """
        input_ids, labels = input_ids.long(), labels.long()
        arguments = self._documents(input_ids, position_ids, cu_seqlens, max_seqlen)
        router = None
        if self.has_plain_head:
            hidden, router = self._hidden(input_ids, arguments)
            made = self._each_target if each_target else self._without_logits
            total, losses = made(hidden.flatten(0, 1), labels.flatten(), target_places)
        else:
            output = self.model(input_ids=input_ids, **arguments)
            total, losses = self._with_logits(output.logits, labels, each_target)
            if arguments.get("output_router_logits"):
                router = output.aux_loss
        by_token = losses.view_as(labels)
        by_sample = by_token.detach().sum(dim=1)
        return Losses(total, by_sample, (labels != IGNORED).sum(dim=1), router, by_token)

    def _hidden(self, input_ids: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The body's output [B, L, D], and the router's loss where it is trained with."""
        body = self.model.base_model
        if not arguments.get("output_router_logits"):
            return body(input_ids=input_ids, **arguments).last_hidden_state, None
        # The model makes its router's loss itself, and one logit of each row that nobody needs.
        seen: list[Any] = []
        hook = body.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            output = self.model(input_ids=input_ids, logits_to_keep=1, **arguments)
        finally:
            hook.remove()
        return seen[0].last_hidden_state, output.aux_loss

    @property
    def takes_positions(self) -> bool:
        """True if the model can be told where documents begin."""
        return self.accepted is None or "position_ids" in self.accepted

    def _documents(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        cu_seqlens: Tensor | None,
        max_seqlen: int | None,
    ) -> dict[str, Any]:
        """Keywords that tell the model about documents, and that it needs no cache."""
        steel = isinstance(self.model, SteelForCausalLM)
        kernel = supports_document_bounds(self.model.config._attn_implementation, input_ids.device)
        if cu_seqlens is not None and position_ids is None:
            documents = documents_from_bounds(cu_seqlens, max_seqlen, *input_ids.shape)
            position_ids = documents.positions
        elif position_ids is not None and cu_seqlens is None and kernel and not steel:
            # Flash kernels find restarting positions by themselves only in batches of one row.
            found = documents_from_positions(position_ids, None)
            cu_seqlens = None if found is None else found.cu_seqlens
        arguments: dict[str, Any] = {"position_ids": position_ids, "use_cache": False}
        if self.accepted is not None:
            if position_ids is not None and not self.takes_positions:
                raise ConfigError(
                    f"{type(self.model).__name__} is not told where documents begin (it takes no "
                    "position_ids): set separate_documents: false if joined ones will do"
                )
            arguments = {k: v for k, v in arguments.items() if k in self.accepted}
        if self.router_weight:
            arguments["output_router_logits"] = self.training
        if cu_seqlens is not None and (kernel or steel):
            arguments |= document_bound_arguments(cu_seqlens, max_seqlen or input_ids.shape[1])
        return arguments

    def _without_logits(
        self, hidden: Tensor, labels: Tensor, places: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sum of the losses of hidden states [T, D], and each of them [T], detached."""
        kept = labels if places is None else labels[places]
        losses = torch.zeros(kept.numel(), dtype=torch.float32, device=labels.device)
        total = self.cross_entropy(
            hidden if places is None else hidden[places],
            self.model.get_output_embeddings().weight,
            kept,
            ignore_index=IGNORED,
            reduction="sum",
            token_losses=losses,
        )
        if places is not None:
            losses = losses.new_zeros(labels.shape).index_copy(0, places, losses)
        return total, losses

    def _each_target(
        self, hidden: Tensor, labels: Tensor, places: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As `_without_logits`, each loss to be differentiated: logits are made again for it."""
        weight = self.model.get_output_embeddings().weight
        kept = labels if places is None else labels[places]
        chosen = hidden if places is None else hidden[places]
        rows = chunk_rows(len(kept), 4 * weight.shape[0])
        losses = torch.cat(
            [
                checkpoint(_losses, part, weight, goal, use_reentrant=False)
                for part, goal in zip(
                    torch.split(chosen, rows), torch.split(kept, rows), strict=True
                )
            ]
        )
        if places is not None:
            losses = losses.new_zeros(labels.shape).index_copy(0, places, losses)
        return losses.sum(), losses

    def _with_logits(
        self, logits: Tensor, labels: Tensor, each_target: bool
    ) -> tuple[Tensor, Tensor]:
        """Transformers' own loss, from all logits in fp32."""
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.sum(), losses if each_target else losses.detach()


def _losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Each token's cross entropy, fp32 [T], from logits that are made here."""
    logits = functional.linear(hidden, weight).float()
    return functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")


def document_arguments(
    batch: Mapping[str, Any], place: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Documents and places of targets of a micro-batch, as keywords of `ModelWithLoss.forward`.

    place: brings a tensor to the model's device. Empty where the loader joins documents.
    """
    names = ("position_ids", "cu_seqlens", "max_seqlen", "target_places")
    found = {name: batch[name] for name in names if batch.get(name) is not None}
    return {k: place(v) if isinstance(v, Tensor) else int(v) for k, v in found.items()}


def router_weight(model: PreTrainedModel) -> float:
    """Weight of a mixture of experts' load balancing loss in its own training loss; 0 without one.

    Where `output_router_logits` is false in the config, the model itself trains without.
    """
    if not getattr(model.config, "output_router_logits", False):
        return 0.0
    if "output_router_logits" not in inspect.signature(model.forward).parameters:
        return 0.0
    places = (model, model.config, model.config.get_text_config())
    found = [getattr(place, name, None) for place in places for name in ROUTER_WEIGHTS]
    return float(next((weight for weight in found if weight is not None), 0.0))


def _accepted(model: nn.Module) -> frozenset[str] | None:
    """Names of the keyword arguments that a model's forward pass takes; None if it takes any."""
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return frozenset(parameters)


@torch.no_grad()
def plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The projection onto the vocabulary, if it alone turns the body's output into logits.

    None where it has a bias, or where the model scales, caps or otherwise changes what goes into
    the projection or comes out of it. That is seen by following three tokens through the model,
    whose weights may be on the meta device.
    """
    if isinstance(model, SteelForCausalLM):
        return model.lm_head
    head, body = model.get_output_embeddings(), model.base_model
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None or body is model:
        return None
    seen: dict[str, Any] = {}
    hooks = [
        body.register_forward_hook(lambda _, __, output: seen.update(body=output)),
        head.register_forward_hook(lambda _, input_, output: seen.update(input=input_, out=output)),
    ]
    config, training = model.config, model.training
    implementation = config._attn_implementation
    model.eval()
    config._attn_implementation_internal = "eager"  # the one that runs on any device, meta too
    device = head.weight.device
    options: dict[str, Any] = {"use_cache": False}
    if "output_router_logits" in inspect.signature(model.forward).parameters:
        options["output_router_logits"] = False  # it wants a mask of the whole batch
    try:
        logits = model(
            input_ids=torch.zeros(1, 3, dtype=torch.int64, device=device),
            attention_mask=torch.zeros(1, 1, 3, 3, device=device),
            **options,
        ).logits
    except Exception as error:  # code of any architecture: whatever it raises means the same
        log.info("%s: loss from all logits, it cannot be followed: %s", type(model).__name__, error)
        return None
    finally:
        config._attn_implementation_internal = implementation
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not seen.keys() >= {"body", "input"}:  # its head or its body is not called as a module
        return None
    (given,) = seen["input"]
    hidden = getattr(seen["body"], "last_hidden_state", None)
    untouched = isinstance(hidden, Tensor) and _same_memory(given, hidden)
    return head if untouched and logits is seen["out"] else None


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Return True for one tensor, or views of one in the same way (`x[:, 0:]` is such a view)."""
    base, other_base = (tensor if tensor._base is None else tensor._base for tensor in (one, other))
    places = ((tensor.shape, tensor.stride(), tensor.storage_offset()) for tensor in (one, other))
    return base is other_base and next(places) == next(places)
