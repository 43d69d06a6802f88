"""Likelihoods of answer letters, computed for lm-eval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jinja2 import TemplateError
from lm_eval.models.huggingface import HFLM

from common.errors import DataError
from model.tokenizer.conversation import Rendered, conversation_encoder
from model.train.loss import plain_head


class ChoiceLM(HFLM):
    """lm-eval's Hugging Face model that computes logits only where a letter is scored.

    A prompt of 1,000 tokens and a vocabulary of 151,936 would give 600 MB of logits, of which four
    numbers are wanted. Equal to HFLM in what it returns (a test compares them), except where a
    question spells a control token: to HFLM it is one, here it is text.
    """

    def __init__(
        self, pretrained: Any, tokenizer: Any, *, batch_size: int, max_length: int | None = None
    ) -> None:
        super().__init__(
            pretrained=pretrained,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=max_length,
        )
        self.truncated: set[str] = set()
        """Prompts that were longer than the model's context and lost their beginning."""
        self.on_batch: Callable[[int], None] = lambda prompts: None
        """Called with the number of prompts that a batch held."""
        self._encoder = conversation_encoder(tokenizer)
        self._rendered: dict[str, Rendered] = {}
        """Prompts that the chat template made, by their text."""
        self._plain_head = plain_head(self.model) is not None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as lm-eval does, and keep which control tokens are the template's.

        Raises DataError where the template refuses it.
        """
        try:
            rendered = self._encoder.render(
                chat_history,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.chat_template_args,
            )
        except TemplateError as error:
            raise DataError(
                f"the chat template of {self.tokenizer.name_or_path} refuses a prompt ({error}): "
                "set `evaluate.chat: false`"
            ) from error
        self._rendered[rendered.text] = rendered
        return rendered.text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a prompt and of what follows; control tokens are those of the template alone."""
        rendered = self._rendered.get(context)
        raw = continuation if rendered is not None else context + continuation
        if (rendered is None or rendered.is_plain) and not self._encoder.spells_control_token(raw):
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        # As lm-eval does: spaces at the end of a prompt belong to what follows.
        text = context.rstrip()
        following = context[len(text) :] + continuation
        if rendered is None:
            special = self.add_bos_token is not False
            whole = self._encoder.encode_text(text + following, add_special_tokens=special)
            begin = self._encoder.encode_text(text, add_special_tokens=special)
        else:
            own = tuple(place for place in rendered.control if place[1] <= len(text))
            prompt = replace(rendered, text=text, control=own)
            starts_with_bos = bool(own) and own[0][0] == 0 and text[: own[0][1]] == self._bos()
            special = self.add_bos_token is not False and not starts_with_bos
            whole = self._encoder.encode_rendered(prompt, following, add_special_tokens=special)
            begin = self._encoder.encode_rendered(prompt, add_special_tokens=special)
        return begin, whole[len(begin) :]

    def _bos(self) -> str:
        return str(self.tokenizer.decode(self.prefix_token_id))

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Score as lm-eval does, without a progress bar in the log."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Compute log P(continuation | context), and if it is the greedy choice, for each request.

        Requests that differ only in their last token (the letters of one question) share one row.
        The windows of a text that is scored whole come without strings, and fit.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, (strings, context, continuation) in enumerate(requests):
            tokens = context + continuation
            if strings is not None and len(tokens) > self.max_length + 1:
                self.truncated.add(strings[0])
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
