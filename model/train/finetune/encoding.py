"""Conversations as token ids, and which of these are targets: what the assistant says."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from model.tokenizer.conversation import Messages, Rendered, conversation_encoder

NO_ANSWER = "empty answer"
NO_ROOM = "prompt fills max_length"
ANSWER_TOO_LONG = "first answer ends beyond max_length"
NO_TARGET = "the chat template marks no answer"


Encoded: TypeAlias = tuple[list[int], list[int], str]
"""Ids of a conversation, 1 for each that is a target (else 0), and why it is left out, or ""."""


def encode_conversations(
    conversations: Sequence[Messages],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None = None,
) -> list[Encoded]:
    """Encode whole conversations, many at once; what the assistant says is a target.

    The ids are those of `ConversationEncoder.encode`. An empty answer is no target, and a
    conversation of nothing but empty ones is left out.

    Args:
        chat_template: one that marks what the assistant says (templates.py); None: the
            tokenizer's own does.
    """
    encoder = conversation_encoder(tokenizer)
    rendered = [encoder.render(messages, chat_template=chat_template) for messages in conversations]
    plain = [number for number, one in enumerate(rendered) if one.is_plain]
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    backend.no_truncation()
    backend.no_padding()
    batch = backend.encode_batch([rendered[n].text for n in plain], add_special_tokens=False)
    at_once = dict(zip(plain, batch, strict=True))
    found: list[Encoded] = []
    for number, messages in enumerate(conversations):
        said = [bool(m["content"].strip()) for m in messages if m["role"] == "assistant"]
        if not any(said):
            found.append(([], [], NO_ANSWER))
            continue
        if number in at_once:
            ids = at_once[number].ids
            spoken = _spoken(at_once[number], rendered[number])
        else:
            ids, spoken = encoder.encode(messages, chat_template=chat_template)
        if not all(said):
            spoken = _without_empty(spoken, said)
        found.append((ids, spoken, "" if any(spoken[1:]) else NO_TARGET))
        if found[-1][2]:
            found[-1] = [], [], NO_TARGET
    return found


def digest_of_texts(texts: Iterable[str]) -> int:
    """64 bits that are the same for the same turns, in any set and for any tokenizer."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return int.from_bytes(digest.digest(), "little")


def _spoken(encoding: Any, rendered: Rendered) -> list[int]:
    """1 for each token of the passages that the assistant says, as Transformers marks them."""
    mask = [0] * len(encoding.ids)
    for start, end in rendered.spoken:
        first = encoding.char_to_token(start)
        if first is None:
            continue  # an empty passage at the end of the text
        last = encoding.char_to_token(end - 1)
        stop = len(mask) if last is None else last + 1
        mask[first:stop] = [1] * (stop - first)
    return mask


def _without_empty(spoken: Sequence[int], said: Sequence[bool]) -> list[int]:
    """The mask without the passages of empty answers, where each answer has one passage."""
    runs = [(value, len([*run])) for value, run in groupby(spoken)]
    if sum(value for value, _ in runs) != len(said):
        return [*spoken]
    answers = iter(said)
    return [mark for value, size in runs for mark in [int(bool(value) and next(answers))] * size]
