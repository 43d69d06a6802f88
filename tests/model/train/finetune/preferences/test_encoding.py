"""A pair is encoded whole: the oldest turns make room, an answer is never cut."""

from collections.abc import Sequence
from typing import Any

import pytest

from model.train.finetune.preferences.encoding import (
    ALIKE,
    LONG_ANSWER,
    LONG_PROMPT,
    NO_ANSWER,
    encode_pair,
)
from tests.tiny_chat import byte_tokenizer

TOKENIZER = byte_tokenizer()
SYSTEM = "You are a helpful assistant."


def turns(*texts: str, system: str = "") -> list[dict[str, str]]:
    roles = ("user", "assistant")
    said = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *said] if system else said


def pair(prompt: list[dict[str, str]], chosen: str, rejected: str) -> dict[str, Any]:
    answers = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def encode(row: dict[str, Any], max_length: int) -> dict[str, Any]:
    return encode_pair(row, tokenizer=TOKENIZER, max_length=max_length)


def chatml(prompt: Sequence[dict[str, str]]) -> str:
    if prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": SYSTEM}, *prompt]
    said = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in prompt)
    return said + "<|im_start|>assistant\n"


def text_of(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids))


def test_an_answer_ends_with_its_end_token_as_in_sft() -> None:
    row = pair(turns("问", "答", "why?"), "because", "不知道")
    found = encode(row, 512)
    assert text_of(found["prompt_ids"]) == chatml(row["prompt"])
    assert text_of(found["chosen_ids"]) == "because<|im_end|>"
    assert text_of(found["rejected_ids"]) == "不知道<|im_end|>"
    assert (found["left_out"], found["shortened"]) == ("", 0)


@pytest.mark.parametrize("system", ["", "Answer briefly."])
def test_the_oldest_turns_go_until_both_answers_fit(system: str) -> None:
    row = pair(turns("a" * 90, "b", "c" * 30, "d", "why?", system=system), "x" * 20, "y" * 9)
    full = len(encode(row, 10**6)["prompt_ids"]) + len("x" * 20) + 1
    assert encode(row, full)["shortened"] == 0
    found = encode(row, full - 1)
    last_two = [m for m in row["prompt"] if m["role"] == "system"] + row["prompt"][-3:]
    assert text_of(found["prompt_ids"]) == chatml(last_two)
    assert (found["shortened"], text_of(found["chosen_ids"])) == (2, "x" * 20 + "<|im_end|>")
    one = encode(row, full - 100 - 40)
    assert one["shortened"] == 4
    head = row["prompt"][:1] if system else []
    assert text_of(one["prompt_ids"]) == chatml([*head, row["prompt"][-1]])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(turns("q" * 200), "yes", "no"), LONG_PROMPT),
        (pair(turns("q"), "y" * 200, "no"), LONG_ANSWER),
        (pair(turns("q"), "yes", "n" * 200), LONG_ANSWER),
        # Alike up to the end of what fits: cut, both would have been the same answer.
        (pair(turns("q"), "a" * 200 + "good", "a" * 200 + "bad"), LONG_ANSWER),
        (pair(turns("q"), "same", "same"), ALIKE),
        (pair(turns("q"), " ", "no"), NO_ANSWER),
        (pair(turns("q"), "yes", "\n"), NO_ANSWER),
    ],
)
def test_what_cannot_be_compared_is_left_out_by_reason(row: dict[str, Any], reason: str) -> None:
    found = encode(row, 150)
    assert found["left_out"] == reason
    assert not any(found[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))


def test_what_users_type_is_no_control_token() -> None:
    found = encode(pair(turns("stop<|im_end|>"), "said <|im_end|> aloud", "no"), 512)
    end = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
    assert found["chosen_ids"].count(end) == 1
    assert found["prompt_ids"].count(end) == 2  # of the system's turn and the user's


def test_names_follow_from_texts_alone() -> None:
    one, other = pair(turns("q"), "yes", "no"), pair(turns("q"), "no", "yes")
    first, second = encode(one, 512), encode(other, 512)
    assert first["pair"] == second["swapped"] != first["swapped"] == second["pair"]
    assert first["prompt_digest"] == second["prompt_digest"]
    cut = encode(one, 9)
    assert cut["left_out"] == LONG_PROMPT
    assert cut["pair"] == first["pair"]
