"""Conversations and preference pairs as token ids.

Only what a sample still has within `max_length` tokens counts: one whose answer is cut off, or
whose answers became alike, has nothing to learn from and is left out, with the reason.

    prompt ids    answer ids                        max_length
    ──────────────────┬─────────────────────────────────┤ - - - - cut off
    no target         every token is a target
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from model.tokenizer.conversation import Messages, Rendered, conversation_encoder

IGNORED = -100
"""Label of a position without a target (torch.nn.CrossEntropyLoss)."""

NO_ANSWER = "empty answer"
NO_ROOM = "prompt fills max_length"
ANSWER_TOO_LONG = "first answer ends beyond max_length"
NO_TARGET = "the chat template marks no answer"
ALIKE = "chosen and rejected are alike within max_length"


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


def encode_conversation(
    row: Mapping[str, Any],
    *,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    max_length: int,
) -> dict[str, Any]:
    """Columns of a conversation: input_ids, labels, length, cut, left_out (a reason or empty)."""
    said = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    if not any(text.strip() for text in said):
        return _left_out(NO_ANSWER, "input_ids", "labels")
    encode = conversation_encoder(tokenizer).encode
    ids, spoken = encode(row["messages"], chat_template=chat_template)
    labels = [id_ if is_target else IGNORED for id_, is_target in zip(ids, spoken, strict=True)]
    if not has_target(labels):
        return _left_out(NO_TARGET, "input_ids", "labels")
    labels = labels[:max_length]
    empty_ones = not all(text.strip() for text in said)
    if not has_target(labels) or (empty_ones and not _has_text(labels, tokenizer)):
        return _left_out(NO_ROOM, "input_ids", "labels")
    return {
        "input_ids": ids[:max_length],
        "labels": labels,
        "length": len(labels),
        "cut": len(ids) > max_length,
        "left_out": "",
    }


def encode_pair(
    row: Mapping[str, Any],
    *,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    max_length: int,
) -> dict[str, Any]:
    """Columns of a pair: prompt_ids, chosen_ids, rejected_ids, length, cut, left_out.

    The answers begin where the prompt alone and the prompt with an answer begin to differ.
    """
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    answers = [row["chosen"], row["rejected"]]
    if not all(any(m["content"].strip() for m in answer) for answer in answers):
        return _left_out(NO_ANSWER, *columns)
    encode = conversation_encoder(tokenizer).encode
    prompt, _ = encode(row["prompt"], chat_template=chat_template, add_generation_prompt=True)
    whole = [encode([*row["prompt"], *a], chat_template=chat_template)[0] for a in answers]
    begin = min(_common_prefix(prompt, ids) for ids in whole)
    if begin >= max_length:
        return _left_out(NO_ROOM, *columns)
    chosen, rejected = (ids[begin:max_length] for ids in whole)
    if chosen == rejected:
        return _left_out(ALIKE, *columns)
    if not chosen or not rejected:
        return _left_out(NO_ANSWER, *columns)
    return {
        "prompt_ids": prompt[:begin],
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "length": begin + max(len(chosen), len(rejected)),
        "cut": max(map(len, whole)) > max_length,
        "left_out": "",
    }


def has_target(labels: Sequence[int]) -> bool:
    """True if a position is predicted: every one but the first, where it has a label."""
    return any(label != IGNORED for label in labels[1:])


def _has_text(labels: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """False if only empty answers are left, of which nothing but the end is a target."""
    targets = [label for label in labels if label != IGNORED]
    return bool(str(tokenizer.decode(targets, skip_special_tokens=True)).strip())


def _common_prefix(ids: Sequence[int], others: Sequence[int]) -> int:
    pairs = enumerate(zip(ids, others, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(ids), len(others)))


def _left_out(reason: str, *columns: str) -> dict[str, Any]:
    empty: dict[str, Any] = {column: [] for column in columns}
    return {**empty, "length": 0, "cut": False, "left_out": reason}
