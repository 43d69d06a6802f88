"""Likelihoods of answer letters, computed for lm-eval.

    requests of lm-eval ─▶ one row a question ─▶ network as loaded ─▶ clear ─────────▶ answers
                                                                  └▶ near ties ─▶ finer network

The two most likely letters of a question may be nearer to each other than rounding errors are. Then
the size of a batch, the number of processes or the kind of a machine would decide. Such questions
are computed anew by a finer network, each alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from lm_eval.models.huggingface import HFLM

from common.errors import DataError
from model.evaluate.forward import Forward
from model.evaluate.prefixes import Row
from model.tokenizer.conversation import Rendered, conversation_encoder

TIE = 1e-9
"""Nats between two letters below which they are equally likely: rounding of float64 is less."""

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Prompt and what follows it (None for a window of a text), and the token ids of both."""
Score = tuple[float, bool]
"""log P(what follows | prompt), and if it is the greedy choice."""


class Finer(NamedTuple):
    """A network for the questions that the one before it leaves open."""

    near: float
    """Nats between the two most likely answers below which a question is open: more than the
    rounding errors of the network before."""
    load: Callable[[], Forward]
    """Called when the first such question comes."""


class ChoiceLM(HFLM):
    """lm-eval's Hugging Face model that computes logits only where a letter is scored.

    A prompt of 1,000 tokens and a vocabulary of 151,936 would give 600 MB of logits, of which four
    numbers are wanted. Beginnings that prompts share, as worked examples, are computed once. Equal
    to HFLM in what it returns (a test compares them), except where a question spells a control
    token: to HFLM it is one, here it is text.
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int | None = None,
        finer: Sequence[Finer] = (),
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
        self.tied: set[str] = set()
        """Prompts with several answers that are equally likely: the first of them is chosen."""
        self.num_settled = 0
        """Questions that the network as loaded left open."""
        self.on_batch: Callable[[int], None] = lambda prompts: None
        """Called with the number of prompts that a batch held."""
        self.forward = Forward(self.model, batch_size=batch_size)
        """The network as loaded."""
        self.finer = list(finer)
        self._encoder = conversation_encoder(tokenizer)
        self._rendered: dict[str, Rendered] = {}
        """Prompts that the chat template made, by their text."""
        self._loaded: dict[int, Forward] = {}

    def loaded(self) -> list[Forward]:
        """Finer networks that were needed so far."""
        return list(self._loaded.values())

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

    def encode_prompt(self, context: str) -> list[int]:
        """Ids of a prompt that is answered in words; control tokens are the template's alone."""
        rendered = self._rendered.get(context)
        if rendered is None:
            special = self.add_bos_token is not False
            return self._encoder.encode_text(context, add_special_tokens=special)
        # The template writes what a conversation begins with.
        return self._encoder.encode_rendered(rendered)

    def score_apart(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """Score (prompt, text that follows) pairs: log P of the text, and its number of tokens.

        Prompt and text are cut into tokens apart: where "：在" is one token, none of its likelihood
        would belong to the text.

        Raises DataError for a text that is longer than the model's context.
        """
        requests: list[Request] = []
        prompts = dict.fromkeys(prompt for prompt, _ in pairs)
        begins = {p: self.encode_prompt(p) or [self.prefix_token_id] for p in prompts}
        for prompt, text in pairs:
            begin = begins[prompt]
            following = self._encoder.encode_text(text, add_special_tokens=False)
            if not 0 < len(following) <= self.max_length:
                raise DataError(
                    f"{len(following)} tokens of {text[:60]!r} cannot be scored by a model with a "
                    f"context of {self.max_length}"
                )
            if len(begin) + len(following) > self.max_length + 1:
                self.truncated.add(prompt)
            requests.append((None, begin, following))
        scores = self._score(self.forward, requests, range(len(requests)))
        return [(scores[i][0], len(request[2])) for i, request in enumerate(requests)]

    def _bos(self) -> str:
        return str(self.tokenizer.decode(self.prefix_token_id))

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Score as lm-eval does, without a progress bar in the log."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Score]:
        """Compute log P(continuation | context), and if it is the greedy choice, for each request.

        The windows of a text that is scored whole come without strings, and fit.
        """
        for strings, context, continuation in requests:
            if strings is not None and len(context) + len(continuation) > self.max_length + 1:
                self.truncated.add(strings[0])
        scores = self._score(self.forward, requests, range(len(requests)))
        questions = _questions(requests)
        open_ones = list(questions)
        for level, (near, load) in enumerate(self.finer):
            open_ones = [q for q in open_ones if _margin(questions[q], scores) < near]
            if not open_ones:
                break
            self.num_settled += len(open_ones) if level == 0 else 0
            if level not in self._loaded:
                self._loaded[level] = load()
            chosen = [i for q in open_ones for same in questions[q] for i in same]
            scores |= self._score(self._loaded[level], requests, chosen)
        for prompt, answers in questions.items():
            best = max(scores[same[0]][0] for same in answers)
            equal = [same for same in answers if best - scores[same[0]][0] < TIE]
            if len(equal) > 1:
                self.tied.add(prompt)
                scores |= {i: (best, scores[i][1]) for same in equal for i in same}
        return [scores[i] for i in range(len(requests))]

    def _score(
        self, forward: Forward, requests: Sequence[Request], indices: Iterable[int]
    ) -> dict[int, Score]:
        """Scores of some requests; those that differ only in their last token share one row."""
        rows: dict[Row, list[int]] = {}
        for index in indices:
            _, context, continuation = requests[index]
            row = tuple((context + continuation)[-(self.max_length + 1) :][:-1])
            rows.setdefault(row, []).append(index)
        tails = [max(len(requests[i][2]) for i in members) for members in rows.values()]
        scores: dict[int, Score] = {}
        members = list(rows.values())
        for batch, found in forward.log_softmax(list(rows), tails):
            for number, logp in zip(batch, found, strict=True):
                for index in members[number]:
                    scores[index] = _score(logp, requests[index][2])
            self.on_batch(len(batch))
        return scores


def _score(logp: torch.Tensor, continuation: list[int]) -> Score:
    """log P of a continuation, and if it is the greedy choice; logp [its length or more, V]."""
    target = torch.tensor(continuation, device=logp.device)
    picked = logp[-len(target) :]
    total = picked.gather(1, target[:, None]).sum().item()
    if not math.isfinite(total):
        raise DataError("the model's output is not finite: its training diverged")
    return total, bool((picked.argmax(-1) == target).all())


def _questions(requests: Sequence[Request]) -> dict[str, list[list[int]]]:
    """Numbers of the requests for each answer to a prompt, of prompts with several answers.

    A question that a file holds twice asks for each of its answers twice.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for index, (strings, _, _) in enumerate(requests):
        if strings is not None:
            found.setdefault(strings[0], {}).setdefault(strings[1], []).append(index)
    return {prompt: list(one.values()) for prompt, one in found.items() if len(one) > 1}


def _margin(answers: list[list[int]], scores: dict[int, Score]) -> float:
    """Nats between the two most likely answers."""
    best, second = sorted((scores[same[0]][0] for same in answers), reverse=True)[:2]
    return best - second
