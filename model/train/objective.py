"""Next-token loss of a causal language model, in the form the trainer and FSDP2 need.

    ids, labels, documents' boundaries ─▶ model's body ─▶ hidden states ─▶ chunked loss (no logits)
                                              └─▶ model's own head ─▶ all logits ─▶ loss, where the
                                                  architecture does more to logits than project

B = samples in the micro-batch, L = sequence length, T = B L, D = model dimension, V = vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from model.attention import boundary_arguments, takes_boundaries
from model.documents import documents_from_bounds, documents_from_positions
from model.kernels import choose
from model.modeling_steel import SteelForCausalLM

IGNORED = -100
"""Label of a token that does not count."""


class Objective(nn.Module):
    """Wraps a model so that one forward call gives the loss.

    It is the root that FSDP2 shards: the projection's weight, which the fused loss reads without
    calling the projection, is gathered by the root's hooks.
    """

    def __init__(self, model: PreTrainedModel, *, end_of_document: int | None = None) -> None:
        """`end_of_document`: token id after which a document ends, for calls that bring no
        boundaries of their own; None joins what such a call holds.
        """
        super().__init__()
        self.model = model
        self.end_of_document = end_of_document
        self.head = plain_head(model)
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
    ) -> tuple[Tensor, Tensor]:
        """Mean loss (scalar, to differentiate) and each sample's mean loss [B] (detached, fp32).

        input_ids and labels [B, L], any integer type; labels are shifted already, -100 does not
        count. Documents that a row packs together are kept apart by position_ids [B, L] (from 0 in
        each of them) and cu_seqlens int32 [documents + 1], their bounds among the T tokens, where
        every row's start is one; max_seqlen is the longest. Without them rows are one document
        each, or are parted after each `end_of_document`.
        """
        input_ids, labels = input_ids.long(), labels.long()
        if position_ids is None and cu_seqlens is None and self.end_of_document is not None:
            position_ids = document_positions(input_ids, self.end_of_document)
        arguments = self._documents(input_ids, position_ids, cu_seqlens, max_seqlen)
        if self.head is not None:
            body = self.model.base_model
            hidden = body(input_ids=input_ids, **arguments).last_hidden_state
            loss, losses = self._without_logits(self.head, hidden, labels)
        else:
            logits = self.model(input_ids=input_ids, **arguments).logits
            loss, losses = self._with_logits(logits, labels)
        num_counted = (labels != IGNORED).sum(dim=1).clamp_min(1)
        return loss, losses.view_as(labels).sum(dim=1) / num_counted

    def _documents(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        cu_seqlens: Tensor | None,
        max_seqlen: int | None,
    ) -> dict[str, Any]:
        """How the model is told about documents, and that it needs no cache."""
        steel = isinstance(self.model, SteelForCausalLM)
        kernel = takes_boundaries(self.model.config._attn_implementation, input_ids.device)
        if cu_seqlens is not None and position_ids is None:
            documents = documents_from_bounds(cu_seqlens, max_seqlen, *input_ids.shape)
            position_ids = documents.positions
        elif position_ids is not None and cu_seqlens is None and kernel and not steel:
            # Flash kernels find restarting positions by themselves only in batches of one row.
            found = documents_from_positions(position_ids, None)
            cu_seqlens = None if found is None else found.cu_seqlens
        arguments: dict[str, Any] = {"position_ids": position_ids, "use_cache": False}
        if cu_seqlens is not None and (kernel or steel):
            arguments |= boundary_arguments(cu_seqlens, max_seqlen or input_ids.shape[1])
        return arguments

    def _without_logits(
        self, head: nn.Linear, hidden: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        losses = torch.zeros(labels.numel(), dtype=torch.float32, device=labels.device)
        loss = self.cross_entropy(
            hidden.flatten(0, 1),
            head.weight,
            labels.flatten(),
            ignore_index=IGNORED,
            token_losses=losses,
        )
        return loss, losses

    def _with_logits(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Transformers' own loss, from all logits in fp32."""
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        return losses.sum() / (labels != IGNORED).sum().clamp_min(1), losses.detach()


def document_arguments(
    batch: Mapping[str, Any], place: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """What a micro-batch says about its documents, as keywords of `Objective.forward`.

    place: brings a tensor to the model's device. Empty where the loader joins documents.
    """
    names = ("position_ids", "cu_seqlens", "max_seqlen")
    found = {name: batch[name] for name in names if batch.get(name) is not None}
    return {k: place(v) if isinstance(v, Tensor) else int(v) for k, v in found.items()}


# What architectures of Transformers do to logits beyond the projection, by their configs' fields.
NEUTRAL = {
    "final_logit_softcapping": None,  # Gemma 2
    "logit_scale": 1.0,  # Cohere
    "logits_scaling": 1.0,  # Granite
    "lm_head_multiplier": 1.0,  # Falcon-H1
    "output_multiplier_scale": 1.0,
    "logit_softcap": None,
    "logits_soft_cap": None,  # RecurrentGemma
    "output_logits_soft_cap": None,  # xLSTM
}


@torch.no_grad()
def plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The projection onto the vocabulary, if it alone turns the body's output into logits.

    None where it has a bias, where the config scales or caps logits, or where three tokens through
    body and projection give other logits than the model does (asked of real weights only).
    """
    if isinstance(model, SteelForCausalLM):
        return model.lm_head
    head: nn.Module = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    if not isinstance(head, nn.Linear) or bias is not None or model.base_model is model:
        return None
    config = model.config.get_text_config()
    if any(getattr(config, field, value) not in (value, None) for field, value in NEUTRAL.items()):
        return None
    if head.weight.is_meta:
        return head
    training = model.training
    model.eval()
    try:
        ids = torch.arange(3, device=head.weight.device).unsqueeze(0) % head.weight.shape[0]
        body = model.base_model(input_ids=ids, use_cache=False)
        same = torch.equal(
            head(body.last_hidden_state), model(input_ids=ids, use_cache=False).logits
        )
    finally:
        model.train(training)
    return head if same else None


def document_positions(input_ids: Tensor, end_of_document: int) -> Tensor:
    """Position of each token in its document [B, L]; 0 at a row's start and after each end.

    A row may begin inside a document: that part counts from 0 as well, since nothing before it is
    in sight. Transformers keeps apart what such positions keep apart (without mask and cache).
    """
    index = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    starts = torch.zeros_like(input_ids)
    after_end = input_ids[:, :-1] == end_of_document
    starts[:, 1:] = torch.where(after_end, index[:, 1:], 0)
    return index - starts.cummax(dim=1).values
