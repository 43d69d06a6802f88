"""A preference pair as token ids: trained on whole, or not at all.

    [system] turns … question │ chosen answer, its end token      both within max_length
                              │ rejected answer, its end token
     the oldest turns go first, until both answers fit

An answer that loses its end teaches no end, and two answers of which one is cut are not the two
that somebody compared. The turns before the last question are context: a pair keeps its meaning
without the oldest of them, and a chat forgets these first, too.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from common.files import canonical_json
from model.tokenizer.conversation import conversation_encoder
from model.train.finetune.encoding import NO_ANSWER

ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")

LONG_PROMPT = "the question alone fills max_length"
LONG_ANSWER = "an answer ends beyond max_length"
ALIKE = "chosen and rejected have the same tokens"


def encode_pair(
    row: Mapping[str, Any], *, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """Columns of a pair: its ids, whether turns were left out, and why it is left out, if it is.

    row: prompt, chosen and rejected, each a list of messages. `shortened` counts the turns that
    were left out; `left_out` is empty or the reason; `pair` and `swapped` name the pair and the
    same one with its answers exchanged; `prompt_digest` names the prompt, whatever the tokenizer.
    """
    found = _named(row) | {"shortened": 0, "left_out": "", **{name: [] for name in ID_COLUMNS}}
    answers = [row["chosen"], row["rejected"]]
    if not all(any(m["content"].strip() for m in answer) for answer in answers):
        return found | {"left_out": NO_ANSWER}
    prompts = list(_prompts(row["prompt"]))
    for prompt in prompts:
        ids, *ends = _ids_of(prompt, answers, tokenizer)
        if ends[0] == ends[1]:
            return found | {"left_out": ALIKE}
        if not all(ends):
            return found | {"left_out": NO_ANSWER}
        if len(ids) + max(map(len, ends)) <= max_length:
            shortened = len(row["prompt"]) - len(prompt)
            return found | dict(zip(ID_COLUMNS, (ids, *ends), strict=True), shortened=shortened)
    return found | {"left_out": LONG_PROMPT if len(ids) >= max_length else LONG_ANSWER}


def _prompts(messages: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    """The prompt, then without its oldest exchange, its two oldest …; the last is the question."""
    head = 1 if messages[0]["role"] == "system" else 0
    system, turns = messages[:head], messages[head:]
    return [[*system, *turns[begin:]] for begin in range(0, len(turns), 2)]


def _ids_of(
    prompt: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[Mapping[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int], list[int], list[int]]:
    """Ids of the prompt and of both answers.

    An answer begins where the prompt alone and the prompt with an answer begin to differ, and ends
    with the last token that the template marks as said, its end token, as in SFT.
    """
    encode = conversation_encoder(tokenizer).encode
    alone, _ = encode(prompt, add_generation_prompt=True)
    whole = [encode([*prompt, *answer]) for answer in answers]
    begin = min(_common_prefix(alone, ids) for ids, _ in whole)
    chosen, rejected = (ids[begin : _end(spoken)] for ids, spoken in whole)
    return alone[:begin], chosen, rejected


def _end(spoken: Sequence[int]) -> int:
    """One after the last place that the assistant said; all of them where nothing is marked."""
    return max((at + 1 for at, said in enumerate(spoken) if said), default=len(spoken))


def _common_prefix(ids: Sequence[int], others: Sequence[int]) -> int:
    pairs = enumerate(zip(ids, others, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(ids), len(others)))


def _named(row: Mapping[str, Any]) -> dict[str, str]:
    prompt, chosen, rejected = (
        [[m["role"], m["content"]] for m in row[name]] for name in ("prompt", "chosen", "rejected")
    )
    return {
        "prompt_digest": _digest(prompt),
        "pair": _digest([prompt, chosen, rejected]),
        "swapped": _digest([prompt, rejected, chosen]),
    }


def _digest(value: object) -> str:
    """16 hexadecimal digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=8).hexdigest()
