"""Conversations and preference pairs as token ids, cut to the longest length that is trained on.

Only what a sample still has within `max_length` tokens counts: one whose answer is cut off, or
whose answers became alike, has nothing to learn from and is left out, with the reason.

    prompt ids    answer ids                        max_length
    ──────────────────┬─────────────────────────────────┤ - - - - cut off
    no target         every token is a target
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from model.tokenizer.conversation import conversation_encoder

IGNORED = -100
"""Label of a position without a target (torch.nn.CrossEntropyLoss)."""

NO_ANSWER = "empty answer"
NO_ROOM = "prompt fills max_length"
NO_TARGET = "the chat template marks no answer"
ALIKE = "chosen and rejected are alike within max_length"


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
