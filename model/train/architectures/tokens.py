"""Tokens on which a tiny model of an architecture is tried: documents of random tokens in two rows.

B = rows, L = tokens of a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.data.dataset import IGNORED
from model.train.loss import Losses, ModelWithLoss

ROWS = ((9, 10, 2, 1, 18), (23, 17))
"""Lengths of the documents in each row, tokens: most are longer than the windows of a tiny model,
two are shorter than the kernel of a convolution."""
COMPARED = ((0, 2), (0, 4), (1, 1))
"""Rows and numbers of the documents that others must not reach."""
SEED = 20_816


@dataclass(frozen=True, kw_only=True)
class ProbeTokens:
    """Tokens of two rows, and documents in them. Shapes as in ModelWithLoss."""

    input_ids: Tensor
    labels: Tensor
    documents: dict[str, Any]
    """Keywords of ModelWithLoss that part the documents; empty where they are joined."""

    def losses(
        self, model: ModelWithLoss, *, ids: Tensor | None = None, counted: Tensor | None = None
    ) -> Losses:
        """Losses of the labels that are marked in `counted` [B, L], by default of all."""
        labels = self.labels if counted is None else self.labels.where(counted, IGNORED)
        found: Losses = model(self.input_ids if ids is None else ids, labels, **self.documents)
        return found

    def document(self, row: int, number: int) -> tuple[int, int]:
        """Places [start, end) of a document in its row."""
        start = sum(ROWS[row][:number])
        return start, start + ROWS[row][number]

    def marked(self, row: int, start: int, end: int) -> Tensor:
        """Bool [B, L], true at places [start, end) of a row."""
        marked = torch.zeros_like(self.input_ids, dtype=torch.bool)
        marked[row, start:end] = True
        return marked


def probe_tokens(model: ModelWithLoss, *, separate: bool) -> ProbeTokens:
    """Random tokens, the same each time, without the first few, which architectures reserve."""
    length = sum(ROWS[0])
    rows = model.model.get_input_embeddings().weight
    size = min(rows.shape[0], model.model.config.get_text_config().vocab_size)
    random = torch.Generator().manual_seed(SEED)
    ids = torch.randint(min(4, size - 1), size, (len(ROWS), length + 1), generator=random)
    ids = ids.to(rows.device)
    documents: dict[str, Any] = {}
    if separate:
        lengths = torch.tensor([n for row in ROWS for n in row], device=ids.device)
        places = [torch.arange(n, device=ids.device) for row in ROWS for n in row]
        documents = {
            "position_ids": torch.cat(places).view(-1, length),
            "cu_seqlens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
            "max_seqlen": int(lengths.max()),
        }
    return ProbeTokens(
        input_ids=ids[:, :-1].clone(), labels=ids[:, 1:].clone(), documents=documents
    )


def other_tokens(ids: Tensor, where: Tensor) -> Tensor:
    """Other tokens at the marked places."""
    low, high = int(ids.min()), int(ids.max()) + 1
    return torch.where(where, low + (ids - low + (high - low) // 2) % (high - low), ids)
