"""Greedy answers of a language model, in batches, equal to those that it gives one by one.

    prompts, longest first ──left padding──▶ generate, key-value cache ──▶ answer up to its end
                                                     │
                    two tokens nearly equal?  the row alone, without padding and cache, decides

What a batch computes for a row depends on its other rows, by rounding. Where the best tokens are
further apart than that, it can't matter; where they are closer, the choice is made by a forward
pass of the row alone, in fp32 from the hidden state on. So answers are those of a batch of one, for
any batch size and number of processes.

Routings that see later tokens (`sequence`, `reference_norm`) have no use for a cache: every token
costs a forward pass of the whole row (model/modeling_steel.py).

Shapes: B = rows, M = tokens of a row, V = vocabulary.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from common.errors import DataError
from model.tokenizer.conversation import conversation_encoder
from model.train.loss import plain_head

log = logging.getLogger(__name__)

ROUNDING = {torch.float32: 2.0**-12, torch.float16: 2.0**-7, torch.bfloat16: 2.0**-4}
"""Share of the largest logit by which two logits must differ for a batch to decide between them.
Several times what padding and other rows were seen to change (docs/LOG.md)."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One answer."""

    text: str
    """Its text, without the token or the string that ended it."""
    num_tokens: int
    """Tokens of the answer, without the one that ended it."""
    complete: bool
    """True if it ended by itself, False if at the limit."""


class Generator:
    """Writes answers to prompts of ids, each up to the first control token.

    Args:
        network: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        batch_size: rows of a batch, >= 1. Changes speed and memory, not answers.
    """

    def __init__(
        self, network: Any, tokenizer: PreTrainedTokenizerBase, *, batch_size: int
    ) -> None:
        self.network, self.tokenizer, self.batch_size = network, tokenizer, batch_size
        self.encoder = conversation_encoder(tokenizer)
        configured = network.generation_config.eos_token_id
        own = [configured] if isinstance(configured, int) else configured or []
        self.ends = sorted({*self.encoder.end_ids, *own})
        """Ids that end an answer: control tokens, and those of the model's config."""
        if not self.ends:
            raise DataError(
                f"the tokenizer {tokenizer.name_or_path} has no token that could end an answer"
            )
        self.head = network.get_output_embeddings() if plain_head(network) is not None else None
        self.decided_alone = 0
        """Tokens so far that a row's own forward pass has decided."""
        self.on_batch: Callable[[int], None] = lambda prompts: None
        """Called with the number of prompts that a batch held."""

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], stops: Sequence[str] = ()
    ) -> list[Generated]:
        """Answer each prompt with at most `limits[i]` tokens, or up to one of the texts `stops`.

        A limit of 0 or less gives an empty answer. Raises DataError for a model whose output is
        not finite, and for a prompt without tokens.
        """
        if any(len(prompt) == 0 for prompt in prompts):
            raise DataError("a prompt has no token; a model needs one to begin with")
        answers = [Generated(text="", num_tokens=0, complete=False)] * len(prompts)
        # Longest first: a batch pads little, and memory runs out at once or never.
        order = [i for i in range(len(prompts)) if limits[i] > 0]
        order.sort(key=lambda i: (-len(prompts[i]), i))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            rows = self._batch([prompts[i] for i in batch], max(limits[i] for i in batch), stops)
            for i, row in zip(batch, rows, strict=True):
                answers[i] = self._answer(row[: limits[i]], stops)
            self.on_batch(len(batch))
        return answers

    @torch.inference_mode()
    def _batch(
        self, prompts: Sequence[Sequence[int]], limit: int, stops: Sequence[str]
    ) -> list[list[int]]:
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        device = self.network.device
        # Left padding: the last token of every row is where its answer goes on.
        ids = torch.tensor(
            [[self.ends[0]] * pad + [*prompt] for pad, prompt in zip(pads, prompts, strict=True)],
            device=device,
        )
        mask = torch.tensor(
            [[0] * pad + [1] * (width - pad) for pad in pads], dtype=torch.long, device=device
        )
        choice = StableChoice(self.network, self.head, pads, width, self.ends)
        criteria = StoppingCriteriaList()
        if stops:
            criteria.append(_StopTexts(self.tokenizer, stops, width))
        output = self.network.generate(
            input_ids=ids,
            attention_mask=mask,
            # Not the folder's: sampling and penalties are no part of a greedy answer.
            generation_config=GenerationConfig(
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                eos_token_id=self.ends,
                pad_token_id=self.ends[0],
            ),
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=criteria,
        )
        self.decided_alone += choice.decided_alone
        rows: list[list[int]] = output[:, width:].tolist()
        return rows

    def _answer(self, ids: Sequence[int], stops: Sequence[str]) -> Generated:
        said = list(takewhile(lambda id_: id_ not in self.ends, ids))
        text = str(self.tokenizer.decode(said, clean_up_tokenization_spaces=False))
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        return Generated(
            text=text[: min(places)] if places else text,
            num_tokens=len(said),
            complete=bool(places) or len(said) < len(ids),
        )


class StableChoice(LogitsProcessor):
    """Makes the greedy choice independent of the other rows of a batch.

    Args:
        network: the model that generates.
        head: what alone turns its body's output into logits; None where nothing does.
        pads: number of padding tokens before each row.
        width: tokens of a padded prompt.
        ends: ids that end an answer; a row that has one is finished.
    """

    def __init__(
        self, network: Any, head: Any, pads: Sequence[int], width: int, ends: Sequence[int]
    ) -> None:
        self.network, self.head, self.pads, self.width = network, head, pads, width
        self.ends = torch.tensor(ends, device=network.device)
        self.rounding = ROUNDING.get(network.dtype, ROUNDING[torch.bfloat16])
        self.decided_alone = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids [B, M] so far, scores [B, V] of the next token -> scores [B, V]."""
        best = scores.topk(2, dim=-1).values.float()
        if not torch.isfinite(best).all():
            raise DataError("the model's output is not finite: its training diverged")
        near = self.rounding * scores.abs().amax(dim=-1).float()
        # A row that has ended generates padding until the batch ends.
        running = ~torch.isin(input_ids[:, self.width :], self.ends).any(dim=-1)
        close = (best[:, 0] - best[:, 1] <= near) & running
        for row in close.nonzero().flatten().tolist():
            candidates = (scores[row] >= best[row, 0] - near[row]).nonzero().flatten()
            chosen = self._alone(input_ids[row, self.pads[row] :], candidates)
            scores[row, chosen] = best[row, 0] + near[row] + 1
            self.decided_alone += 1
        return scores

    def _alone(self, ids: Tensor, candidates: Tensor) -> int:
        """The best of `candidates` [N] after a row [M] without padding; the first of equals."""
        if self.head is None:
            logits = self.network(ids[None], use_cache=False).logits[0, -1].float()[candidates]
        else:
            hidden = self.network.base_model(ids[None], use_cache=False).last_hidden_state[0, -1]
            logits = self.head.weight[candidates].float() @ hidden.float()
        return int(candidates[logits.argmax()])


class _StopTexts(StoppingCriteria):
    """Ends a row once its answer holds one of some texts."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], width: int
    ) -> None:
        self.tokenizer, self.stops, self.width = tokenizer, stops, width
        # Every token but a broken character has a byte at least.
        self.window = max(len(stop.encode()) for stop in stops) + 8

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        new = input_ids[:, max(self.width, input_ids.shape[1] - self.window) :].tolist()
        texts = [self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in new]
        found = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)
