"""Likelihoods of answer letters, computed for lm-eval."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lm_eval.models.huggingface import HFLM

from common.errors import DataError
from model.train.loss import plain_head


class ChoiceLM(HFLM):
    """lm-eval's Hugging Face model that computes logits only where a letter is scored.

    A prompt of 1,000 tokens and a vocabulary of 151,936 would give 600 MB of logits, of which four
    numbers are wanted. Equal to HFLM in what it returns (a test compares them).
    """

    def __init__(
        self, pretrained: Any, tokenizer: Any, *, batch_size: int, rank: int, world_size: int
    ) -> None:
        super().__init__(
            pretrained=pretrained, tokenizer=tokenizer, backend="causal", batch_size=batch_size
        )
        self._rank, self._world_size = rank, world_size
        self.truncated: set[str] = set()
        """Prompts that were longer than the model's context and lost their beginning."""
        self.on_batch: Callable[[int], None] = lambda prompts: None
        """Called with the number of prompts that a batch held."""
        self._plain_head = plain_head(self.model) is not None

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gather [...] of every rank -> [world_size]; lm-eval gathers only numbers this way."""
        if self.world_size == 1:
            return tensor
        gathered = [torch.zeros_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Score as lm-eval does, without a progress bar in the log."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Compute log P(continuation | context), and if it is the greedy choice, for each request.

        Requests that differ only in their last token (the letters of one question) share one row.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, ((prompt, _), context, continuation) in enumerate(requests):
            tokens = context + continuation
            if len(tokens) > self.max_length + 1:
                self.truncated.add(prompt)
            row = tuple(tokens[-(self.max_length + 1) :][:-1])
            rows.setdefault(row, []).append(index)
        # Longest first: a batch pads little, and memory runs out at once or never.
        order = sorted(rows, key=lambda row: (-len(row), row))
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            tails = [max(len(requests[i][2]) for i in rows[row]) for row in batch]
            for row, scores in zip(batch, self._log_softmax(batch, tails), strict=True):
                for index in rows[row]:
                    target = torch.tensor(requests[index][2], device=scores.device)
                    picked = scores[-len(target) :]
                    logp = picked.gather(1, target[:, None]).sum().item()
                    if not math.isfinite(logp):
                        raise DataError("the model's output is not finite: its training diverged")
                    results[index] = (logp, bool((picked.argmax(-1) == target).all()))
            self.on_batch(len(batch))
        return results

    def _log_softmax(
        self, batch: list[tuple[int, ...]], tails: list[int]
    ) -> Sequence[torch.Tensor]:
        """log P of the next token after each of the last `tails[i]` tokens of row i: [tail, V]."""
        width = len(batch[0])
        # Padding stands to the right, where causal attention never looks.
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=self.device)
        places = [
            (i, position)
            for i, (row, tail) in enumerate(zip(batch, tails, strict=True))
            for position in range(len(row) - tail, len(row))
        ]
        i, position = torch.tensor(places, device=self.device).unbind(1)
        if self._plain_head:
            hidden = self.model.base_model(ids, use_cache=False).last_hidden_state  # [B, T, D]
            logits = self.model.get_output_embeddings()(hidden[i, position])
        else:
            logits = self.model(ids, use_cache=False).logits[i, position]
        return torch.split(torch.log_softmax(logits.float(), dim=-1), tails)
