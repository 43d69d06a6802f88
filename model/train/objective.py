"""Next-token loss of a causal language model, in the form the trainer and FSDP2 need.

B = samples in the micro-batch, L = sequence length, D = model dimension, V = vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.modeling_steel import SteelForCausalLM

IGNORED = -100
"""Label of a token that does not count."""


class Objective(nn.Module):
    """Wraps a model so that one forward call gives the loss.

    It is the root that FSDP2 shards: the projection's weight, which the fused loss reads without
    calling the projection, is gathered by the root's hooks.
    """

    def __init__(self, model: nn.Module, *, end_of_document: int | None) -> None:
        """`end_of_document`: token id after which a new document starts; None joins documents."""
        super().__init__()
        self.model = model
        self.end_of_document = end_of_document

    def forward(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss (scalar, to differentiate) and each sample's mean loss [B] (detached, fp32).

        `input_ids` and `labels` are [B, L] with labels already shifted; -100 is not counted.
        """
        positions = None
        if self.end_of_document is not None:
            positions = document_positions(input_ids, self.end_of_document)
        if isinstance(self.model, SteelForCausalLM):
            loss, losses = self._without_logits(self.model, input_ids, labels, positions)
        else:
            loss, losses = self._with_logits(input_ids, labels, positions)
        num_counted = (labels != IGNORED).sum(dim=1).clamp_min(1)
        return loss, losses.view_as(labels).sum(dim=1) / num_counted

    def _without_logits(
        self,
        model: SteelForCausalLM,
        input_ids: Tensor,
        labels: Tensor,
        positions: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        outputs = model.model(input_ids=input_ids, position_ids=positions, use_cache=False)
        losses = torch.zeros(labels.numel(), dtype=torch.float32, device=labels.device)
        loss = model.kernels.cross_entropy(
            outputs.last_hidden_state.flatten(0, 1),
            model.lm_head.weight,
            labels.flatten(),
            ignore_index=IGNORED,
            token_losses=losses,
        )
        return loss, losses

    def _with_logits(
        self, input_ids: Tensor, labels: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Transformers' own loss, from all logits in fp32, for any other architecture."""
        outputs = self.model(input_ids=input_ids, position_ids=positions, use_cache=False)
        losses = functional.cross_entropy(
            outputs.logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        return losses.sum() / (labels != IGNORED).sum().clamp_min(1), losses.detach()


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
