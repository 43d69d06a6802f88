"""A conversation with a chat model: questions in, answers out token by token.

    Conversation(system, exchanges) ──chat template──▶ ids ──generate──▶ TextStream ──▶ on_text
        oldest exchanges go first when the context is full

Only the chat template makes control tokens: what a person types, and a system prompt, is text,
whatever it spells. The first control token that the model gives ends its answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import GenerationConfig

from common.errors import DataError
from model.load import load_causal_lm
from model.tokenizer.conversation import conversation_encoder
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.tokenizer.text_stream import TextStream

OnText = Callable[[str], None]

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
"""Fields of a config that say how many tokens the model takes, in architectures of Transformers."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The choice of tokens."""

    temperature: float = 0.0
    """0: always the likeliest token. Else logits are divided by it before one is drawn."""
    top_p: float = 1.0
    """Only the likeliest tokens that have this share of the probability together; 1: all."""
    top_k: int = 0
    """Only so many of the likeliest tokens; 0: all."""
    repetition_penalty: float = 1.0
    """Tokens that stand in the conversation get less likely above 1 (Keskar et al. 2019)."""
    max_new_tokens: int = 512
    """Longest answer, in tokens."""
    seed: int = 0
    """Decides what is drawn: same seed and conversation, same answers."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer."""

    text: str
    finish: Literal["end", "length", "context", "stopped"]
    """Reason for its end: the model, `max_new_tokens`, a full context, Ctrl-C."""
    prompt_tokens: int
    answer_tokens: int
    left_out: int
    """Oldest exchanges that had to go for this question."""


class ChatModel:
    """A chat model in memory, on the GPU where there is one.

    Raises DataError for a folder that is no chat model, and what `load_causal_lm` raises.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_folder_tokenizer(folder)
        check_model_folder(folder, self.tokenizer)
        if not self.tokenizer.chat_template:
            raise DataError(
                f"the tokenizer in {folder} has no chat template, so it is no chat model: put its "
                "chat_template.jinja there, or fine-tune it first"
            )
        self.encoder = conversation_encoder(self.tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network: Any = load_causal_lm(folder, "auto", self.device).to(self.device).eval()
        configured = self.network.generation_config.eos_token_id
        named = [configured] if isinstance(configured, int) else configured or []
        self.ends = {*self.encoder.end_ids, *named}
        # What the folder says about sampling must not mix with what is asked for here.
        self.network.generation_config = GenerationConfig()
        self.context = _context(self.network.config)

    def encode(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation that waits for an answer. Raises DataError where the chat template
        refuses it."""
        try:
            ids, _ = self.encoder.encode(messages, add_generation_prompt=True)
        except TemplateError as error:
            raise DataError(
                f"the chat template of {self.tokenizer.name_or_path} refuses this conversation "
                f"({error})"
            ) from error
        return ids

    def generate(
        self, ids: list[int], sampling: Sampling, on_text: OnText, *, draw: int = 0
    ) -> Answer:
        """Answer a prompt, giving each piece of text as soon as it is complete.

        draw: number of the answer in its conversation. KeyboardInterrupt ends the answer.
        """
        room = sampling.max_new_tokens
        if self.context is not None:
            room = min(room, self.context - len(ids))
        torch.manual_seed(sampling.seed + draw)
        receiver = _Receiver(TextStream(self._decode), self.ends, on_text)
        sampled = sampling.temperature > 0
        config = GenerationConfig(
            max_new_tokens=room,
            do_sample=sampled,
            temperature=float(sampling.temperature) if sampled else 1.0,
            top_p=float(sampling.top_p) if sampled else 1.0,
            top_k=sampling.top_k if sampled else 50,  # what Transformers expects where none is used
            repetition_penalty=float(sampling.repetition_penalty),
            eos_token_id=sorted(self.ends),
            pad_token_id=min(self.ends),
        )
        prompt = torch.tensor([ids], device=self.device)
        stopped = False
        try:
            with torch.inference_mode():
                self.network.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=config,
                    streamer=receiver,
                )
        except KeyboardInterrupt:
            stopped = True
        receiver.finish()
        full = "context" if room < sampling.max_new_tokens else "length"
        return Answer(
            text="".join(receiver.pieces),
            finish="stopped" if stopped else "end" if receiver.ended else full,  # type: ignore[arg-type]
            prompt_tokens=len(ids),
            answer_tokens=receiver.count,
            left_out=0,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


@dataclass(kw_only=True)
class Conversation:
    """Everything said so far, and the system prompt before it."""

    model: ChatModel
    sampling: Sampling
    system: str = ""
    """System prompt; "": the chat template's own, if it has one."""
    exchanges: list[tuple[str, str]] = field(default_factory=list)
    """Questions and answers that the model still sees, oldest first."""
    asked: int = 0
    """Questions since the beginning or the last reset."""

    def reset(self) -> None:
        """Forget what was said; the system prompt stays."""
        self.exchanges.clear()
        self.asked = 0

    def ask(
        self,
        message: str,
        on_text: OnText = lambda piece: None,
        on_left_out: Callable[[int], None] = lambda count: None,
    ) -> Answer:
        """Answer a message, and remember both.

        on_left_out: called before the answer with the number of oldest exchanges that had to go. An
        answer that was stopped before it said anything is not remembered. Raises DataError for a
        message that does not fit into the model's context even alone; nothing is forgotten then.
        """
        ids, left_out = self._fitting(message)
        if left_out:
            del self.exchanges[:left_out]
            on_left_out(left_out)
        answer = self.model.generate(ids, self.sampling, on_text, draw=self.asked)
        self.asked += 1
        if answer.text or answer.finish != "stopped":
            self.exchanges.append((message, answer.text))
        return replace(answer, left_out=left_out)

    def _fitting(self, message: str) -> tuple[list[int], int]:
        """The prompt with as many of the newest exchanges as leave room for an answer, and the
        number of those that do not."""
        context = self.model.context
        if context is None:
            return self.model.encode(self._messages(message, 0)), 0
        for start in range(len(self.exchanges) + 1):
            ids = self.model.encode(self._messages(message, start))
            wanted = min(self.sampling.max_new_tokens, context // 2)
            if len(ids) + wanted <= context:
                return ids, start
        if len(ids) < context:  # alone it fits, and leaves less room than wanted
            return ids, len(self.exchanges)
        with_system = " with its system prompt" if self.system else ""
        raise DataError(
            f"this message{with_system} takes {len(ids):,} tokens, and the model's context has "
            f"{context:,}, its answer included: shorten it"
        )

    def _messages(self, message: str, start: int) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.exchanges[start:]:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": message}]


class _Receiver:
    """Takes tokens from `generate` as they come (Transformers' streamer)."""

    def __init__(self, stream: TextStream, ends: set[int], on_text: OnText) -> None:
        self.stream, self.ends, self.on_text = stream, ends, on_text
        self.pieces: list[str] = []
        self.count = 0
        self.ended = False
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        if self._is_prompt:  # the first call brings the prompt
            self._is_prompt = False
            return
        for id_ in value.flatten().tolist():
            self.ended = self.ended or id_ in self.ends
            if not self.ended:
                self.count += 1
                self._say(self.stream.add(id_))

    def end(self) -> None:
        """Called at the end of an answer that was not interrupted; `finish` does the work."""

    def finish(self) -> None:
        """Say what was held back."""
        self._say(self.stream.end())

    def _say(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            self.on_text(piece)


def _context(config: Any) -> int | None:
    """Tokens that a model takes at most; None where its config does not say."""
    text_config = config.get_text_config()
    found = (getattr(text_config, name, None) for name in CONTEXT_FIELDS)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
