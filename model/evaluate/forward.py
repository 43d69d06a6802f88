"""Log-probabilities of next tokens, with what rows have in common computed once.

    rows ──prefix_groups──▶ prefix [1, P] ──▶ keys and values ──repeated──▶ the rest of the rows
                                                                          [B, S], padded right

Shapes: B = rows of a forward pass, P = tokens of a prefix, S = tokens of the longest rest,
V = vocabulary.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer

from model.evaluate.prefixes import Group, Row, prefix_groups
from model.train.loss import plain_head

log = logging.getLogger(__name__)

PADDING = 0.15
"""Of a batch's real tokens, at most, may stand beside them as padding."""

PROBE = 8
"""Tokens by which is seen if a model continues from a prefix."""


class Forward:
    """A network, and how its rows are batched."""

    def __init__(self, network: Any, *, batch_size: int, share: bool | None = None) -> None:
        """share: if True, common prefixes are computed once; None: where the network can that."""
        self.network, self.batch_size = network, batch_size
        self.head = plain_head(network)
        self.share = continues_from_a_prefix(network) if share is None else share
        self.num_tokens = 0
        """Tokens forwarded so far, padding included."""
        self._weight: Tensor | None = None

    @torch.inference_mode()
    def log_softmax(
        self, rows: Sequence[Row], tails: Sequence[int]
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Yield numbers of rows, and for each of them log P of the token after each of its last
        `tails[i]` tokens, fp32 or finer: [tail, V]. Every row comes once.
        """
        groups = prefix_groups(rows, tails) if self.share else [Group(0, list(range(len(rows))))]
        # Longest first: memory runs out at once or never.
        for prefix, members in sorted(groups, key=lambda group: -group.prefix):
            members = sorted(members, key=lambda i: (-len(rows[i]), rows[i]))
            past = self._past(rows[members[0]][:prefix]) if prefix else None
            sizes = [len(rows[i]) - prefix for i in members]
            for start, end in batches(sizes, self.batch_size):
                batch = members[start:end]
                rests = [rows[i][prefix:] for i in batch]
                yield batch, self._scores(rests, [tails[i] for i in batch], past)

    def _past(self, prefix: Row) -> DynamicCache:
        ids = torch.tensor([prefix], device=self.network.device)
        self.num_tokens += ids.numel()
        past: DynamicCache = self.network.base_model(ids, use_cache=True).past_key_values
        return past

    def _scores(
        self, rests: list[Row], tails: list[int], past: DynamicCache | None
    ) -> list[Tensor]:
        # Padding stands to the right, where causal attention never looks.
        width = max(map(len, rests))
        padded = [[*rest, *[0] * (width - len(rest))] for rest in rests]
        ids = torch.tensor(padded, device=self.network.device)
        self.num_tokens += ids.numel()
        arguments: dict[str, Any] = {"use_cache": False}
        if past is not None:
            past = copy.deepcopy(past)  # a forward pass adds to it
            past.batch_repeat_interleave(len(rests))
            arguments = {"use_cache": True, "past_key_values": past}
        places = [
            (row, position)
            for row, (rest, tail) in enumerate(zip(rests, tails, strict=True))
            for position in range(len(rest) - tail, len(rest))
        ]
        row, position = torch.tensor(places, device=ids.device).unbind(1)
        if self.head is None:
            logits = self.network(ids, **arguments).logits[row, position]
        else:
            hidden = self.network.base_model(ids, **arguments).last_hidden_state
            logits = self._project(hidden[row, position])
        finer = logits if logits.dtype == torch.float64 else logits.float()
        return list(torch.split(torch.log_softmax(finer, dim=-1), tails))

    def _project(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states [N, D] in fp32 or finer: [N, V].

        A projection in bf16 rounds logits to 1/16 and coarser, and the letters of many a question
        become equal.
        """
        assert self.head is not None
        if self._weight is None:
            weight = self.head.weight.detach()
            half = weight.dtype in (torch.bfloat16, torch.float16)
            self._weight = weight.float() if half else weight
        return functional.linear(hidden.to(self._weight.dtype), self._weight)


def batches(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of batches of at most `most` rows, of which little is padding.

    sizes: lengths of the rows, falling; a batch is as wide as its first.
    """
    start = 0
    while start < len(sizes):
        end, real = start + 1, sizes[start]
        while end < len(sizes) and end - start < most:
            real += sizes[end]
            if (end + 1 - start) * sizes[start] > (1 + PADDING) * real:
                break
            end += 1
        yield start, end
        start = end


@torch.inference_mode()
def continues_from_a_prefix(network: Any) -> bool:
    """True if a network gives the same for tokens that follow a prefix whose keys and values are
    repeated for several rows. Those that see later tokens, or keep another kind of state, do not.
    """
    if getattr(network.config, "leaks", False):
        return False
    ids = torch.arange(PROBE, device=network.device)[None]
    half = PROBE // 2
    try:
        whole = network(ids, use_cache=False).logits[0, half:]
        past = network(ids[:, :half], use_cache=True).past_key_values
        if type(past) is not DynamicCache or any(type(x) is not DynamicLayer for x in past.layers):
            log.info("%s keeps a state that is not shared", type(network).__name__)
            return False
        past.batch_repeat_interleave(2)
        rest = ids[:, half:].expand(2, -1)
        rests = network(rest, past_key_values=past, use_cache=True).logits
    except Exception as error:  # code of any architecture: whatever it raises means the same
        log.info("%s cannot continue from a prefix: %s", type(network).__name__, error)
        return False
    scale = float(whole.abs().max())
    tolerance = (0.1 if whole.dtype in (torch.bfloat16, torch.float16) else 1e-3) * max(scale, 1e-3)
    return all(torch.allclose(whole, one, rtol=0, atol=tolerance) for one in rests)
