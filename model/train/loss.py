"""Next-token loss of a causal language model, in the form the trainer and FSDP2 need.

    ids, labels, documents' boundaries ─▶ model's body ─▶ hidden states ─▶ chunked loss (no logits)
                                              └─▶ model's own head ─▶ all logits ─▶ loss, where the
                                                  architecture does more to logits than project

B = samples in the micro-batch, L = sequence length, T = B L, D = model dimension, V = vocabulary.

Sums, not means: how many targets a micro-batch has differs, and a step's loss is the mean over all
targets of all its micro-batches on all ranks (model/train/distributed/step_outcome.py).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from model.attention import document_bound_arguments, supports_document_bounds
from model.data.dataset import IGNORED
from model.documents import documents_from_bounds, documents_from_positions
from model.kernels import choose
from model.modeling_steel import SteelForCausalLM

log = logging.getLogger(__name__)


class Losses(NamedTuple):
    """Losses of a micro-batch, nats; all tensors on the model's device."""

    total: Tensor
    """Sum over its targets, fp32 scalar, to differentiate; 0 where there is no target."""
    by_sample: Tensor
    """Sum over each sample's targets, fp32 [B], detached."""
    num_targets: Tensor
    """Targets of each sample, int64 [B]: labels that are not IGNORED."""

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
    ) -> Losses:
        """Sums of losses, and the number of targets that they are sums over.

        input_ids and labels [B, L], any integer type; labels are shifted already, IGNORED does not
        count. Documents that a row packs together are kept apart by position_ids [B, L] (from 0 in
        each of them) and cu_seqlens int32 [documents + 1], their bounds among the T tokens, where
        every row's start is one; max_seqlen is the longest. Without them each row is one
        document.
        """
        input_ids, labels = input_ids.long(), labels.long()
        arguments = self._documents(input_ids, position_ids, cu_seqlens, max_seqlen)
        if self.has_plain_head:
            body = self.model.base_model
            hidden = body(input_ids=input_ids, **arguments).last_hidden_state
            total, losses = self._without_logits(hidden, labels)
        else:
            logits = self.model(input_ids=input_ids, **arguments).logits
            total, losses = self._with_logits(logits, labels)
        by_sample = losses.view_as(labels).sum(dim=1)
        return Losses(total, by_sample, (labels != IGNORED).sum(dim=1))

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
        if cu_seqlens is not None and (kernel or steel):
            arguments |= document_bound_arguments(cu_seqlens, max_seqlen or input_ids.shape[1])
        return arguments

    def _without_logits(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses = torch.zeros(labels.numel(), dtype=torch.float32, device=labels.device)
        total = self.cross_entropy(
            hidden.flatten(0, 1),
            self.model.get_output_embeddings().weight,
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            token_losses=losses,
        )
        return total, losses

    def _with_logits(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Transformers' own loss, from all logits in fp32."""
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.sum(), losses.detach()


def document_arguments(
    batch: Mapping[str, Any], place: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Documents of a micro-batch, as keywords of `ModelWithLoss.forward`.

    place: brings a tensor to the model's device. Empty where the loader joins documents.
    """
    names = ("position_ids", "cu_seqlens", "max_seqlen")
    found = {name: batch[name] for name in names if batch.get(name) is not None}
    return {k: place(v) if isinstance(v, Tensor) else int(v) for k, v in found.items()}


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
    try:
        logits = model(
            input_ids=torch.zeros(1, 3, dtype=torch.int64, device=device),
            attention_mask=torch.zeros(1, 1, 3, 3, device=device),
            use_cache=False,
        ).logits
    except (NotImplementedError, RuntimeError) as error:
        log.info("%s: loss from all logits, it cannot be followed: %s", type(model).__name__, error)
        return None
    finally:
        config._attn_implementation_internal = implementation
        model.train(training)
        for hook in hooks:
            hook.remove()
    (given,) = seen["input"]
    untouched = _same_memory(given, seen["body"].last_hidden_state)
    return head if untouched and logits is seen["out"] else None


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Return True for one tensor, or views of one in the same way (`x[:, 0:]` is such a view)."""
    base, other_base = (tensor if tensor._base is None else tensor._base for tensor in (one, other))
    places = ((tensor.shape, tensor.stride(), tensor.storage_offset()) for tensor in (one, other))
    return base is other_base and next(places) == next(places)
