"""Native rows of SFT and preference data sets as conversations and pairs.

One small function per format; a recipe names it in `format`. Each takes a row and returns what can
be learned from it, or raises `UnusableRow` with a reason that is counted. A new format is a new
function and a line in the table at the end.
"""

import re
from collections.abc import Callable
from typing import Any

from corpus.chats.choices import hub_choices, llm_adapters, logiqa, wanjuan_exam
from corpus.chats.messages import (
    ROLES,
    Chat,
    MalformedRow,
    Message,
    Pair,
    UnusableRow,
    by_role,
    checked,
    checked_text,
    listed,
    turn_text,
    turns,
)
from corpus.chats.rows import Row
from corpus.text_fields import kind_of

_MOSS_TAGS = re.compile(r"^<\|(Human|MOSS|Commands)\|>:\s*|\s*<eo[hmc]>\s*$")


def alpaca(row: Row) -> list[Chat]:
    """instruction, input (may be absent), output or response, history [[question, answer], …]."""
    answer = turn_text(row, _given(row, "output", "response"))
    pairs = [*_history(row), (_instruction(row), answer)]
    return [Chat(messages=turns(pairs, system=turn_text(row, "system", optional=True)))]


def sharegpt(row: Row) -> list[Chat]:
    """conversations: [{from, value}, …]; a `system_prompt` beside it is kept."""
    messages = by_role(row, "conversations", role="from", content="value")
    system = turn_text(row, "system_prompt", optional=True)
    system = system or turn_text(row, "system", optional=True)
    if system.strip() and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return [Chat(messages=checked(messages))]


def openai_messages(row: Row) -> list[Chat]:
    """messages: [{role, content}, …]; content is a text or a list of parts."""
    return [Chat(messages=checked(by_role(row, "messages", role="role", content="content")))]


def question_answer(row: Row) -> list[Chat]:
    """question, answer."""
    return [Chat(messages=turns([(turn_text(row, "question"), turn_text(row, "answer"))]))]


def xtuner(row: Row) -> list[Chat]:
    """conversation: [{system, input, output}, …]; the first system prompt counts."""
    pairs: list[tuple[str, str]] = []
    system = ""
    for turn in listed(row, "conversation"):
        if not isinstance(turn, dict):
            raise MalformedRow("conversation[]", f"{kind_of(turn)}, not an object")
        if not pairs:
            system = turn_text(turn, "system", optional=True)
        pairs.append((turn_text(turn, "input"), turn_text(turn, "output")))
    return [Chat(messages=turns(pairs, system=system))]


def moss(row: Row) -> list[Chat]:
    """chat: {turn_1: {Human, Commands, MOSS, …}, …}, with tags; `meta_instruction` is left out."""
    chat = row.get("chat")
    if chat is None or chat == {}:
        raise UnusableRow("no turns")
    if not isinstance(chat, dict):
        raise MalformedRow("chat", f"{kind_of(chat)}, not an object")
    pairs = []
    for number in range(1, len(chat) + 1):
        if f"turn_{number}" not in chat:
            raise UnusableRow("turns are not numbered through")
        turn = chat[f"turn_{number}"]
        if not isinstance(turn, dict):
            raise MalformedRow("chat.turn", f"{kind_of(turn)}, not an object")
        if _untagged(turn_text(turn, "Commands", optional=True)) not in ("", "None"):
            raise UnusableRow("tool call")
        pairs.append((_untagged(turn_text(turn, "Human")), _untagged(turn_text(turn, "MOSS"))))
    return [Chat(messages=turns(pairs))]


RATINGS = (
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
)
"""Columns with the ratings of both answers, as the binarized forms of UltraFeedback have them."""


def instruction_pair(row: Row) -> Pair:
    """instruction, input (may be absent), chosen(_response), rejected(_response)."""
    prompt: list[Message] = [{"role": "user", "content": _instruction(row)}]
    chosen = turn_text(row, _given(row, "chosen_response", "chosen"))
    rejected = turn_text(row, _given(row, "rejected_response", "rejected"))
    return _pair(prompt, chosen, rejected)


def message_pair(row: Row) -> Pair:
    """chosen and rejected are dialogues [{role, content}, …] that differ in their last turn."""
    chosen = by_role(row, "chosen", role="role", content="content")
    rejected = by_role(row, "rejected", role="role", content="content")
    if chosen[:-1] != rejected[:-1]:
        raise UnusableRow("the two dialogues differ before the answer")
    ends = [dialogue[-1]["role"] if dialogue else "" for dialogue in (chosen, rejected)]
    if ends != ["assistant", "assistant"]:
        raise UnusableRow("does not end with the assistant")
    return _pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def sharegpt_pair(row: Row) -> Pair:
    """conversations [{from, value}, …]; chosen and rejected as {from, value} or as texts."""
    prompt = by_role(row, "conversations", role="from", content="value")
    return _pair(prompt, _value(row, "chosen"), _value(row, "rejected"))


def ranked_outputs(row: Row) -> Pair:
    """instruction, input, history, output [best, …, worst]: the best against the worst."""
    outputs = [checked_text(answer, "output[]") for answer in listed(row, "output")]
    if len(outputs) < 2:
        raise UnusableRow("fewer than two answers")
    history = [message for q, a in _history(row) for message in _exchange(q, a)]
    prompt = [*history, Message(role="user", content=_instruction(row))]
    return _pair(prompt, outputs[0], outputs[-1])


def check_ratings(row: Row) -> None:
    """Raise UnusableRow for answers that are rated alike, or the rejected one higher.

    Where a row has two ratings, under one of the usual pairs of names, and both are numbers.
    """
    for names in RATINGS:
        chosen: Any = row.get(names[0])
        rejected: Any = row.get(names[1])
        if not all(type(rating) in (int, float) for rating in (chosen, rejected)):
            continue
        if chosen == rejected:
            raise UnusableRow("tie: both answers are rated alike")
        if chosen < rejected:
            raise UnusableRow("the rejected answer is rated higher")


CHAT_FORMATS: dict[str, Callable[[Row], list[Chat]]] = {
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "messages": openai_messages,
    "question_answer": question_answer,
    "xtuner": xtuner,
    "moss": moss,
    "wanjuan_exam": wanjuan_exam,
    "hub_choices": hub_choices,
    "llm_adapters": llm_adapters,
    "logiqa": logiqa,
}
"""Values of `format` in data_recipes/sft."""

PAIR_FORMATS: dict[str, Callable[[Row], Pair]] = {
    "instruction_pair": instruction_pair,
    "message_pair": message_pair,
    "sharegpt_pair": sharegpt_pair,
    "ranked_outputs": ranked_outputs,
}
"""Values of `format` in data_recipes/preferences."""


def _instruction(row: Row) -> str:
    instruction, further = turn_text(row, "instruction"), turn_text(row, "input", optional=True)
    return f"{instruction}\n{further}" if further.strip() else instruction


def _history(row: Row) -> list[tuple[str, str]]:
    history = row.get("history")
    if history is None:
        return []
    if not isinstance(history, list):
        raise MalformedRow("history", f"{kind_of(history)}, not a list")
    if not all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in history):
        raise MalformedRow("history", "not a list of pairs")
    return [
        (checked_text(question, "history[][]"), checked_text(answer, "history[][]"))
        for question, answer in history
    ]


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _given(row: Row, first: str, second: str) -> str:
    """The name that a row has for a field; the first where it has neither."""
    return second if first not in row and second in row else first


def _untagged(text: str) -> str:
    return _MOSS_TAGS.sub("", text).strip()


def _value(row: Row, field: str) -> str:
    """An answer given as a text or as {"value": text}."""
    answer = row.get(field)
    if not isinstance(answer, dict):
        return turn_text(row, field)
    if "from" in answer and ROLES.get(turn_text(answer, "from").strip().lower()) != "assistant":
        raise UnusableRow("does not end with the assistant")
    return turn_text(answer, "value")


def _pair(prompt: list[Message], better: str, worse: str) -> Pair:
    usable = checked(prompt, last="user")
    for answer in (better, worse):
        checked([Message(role="user", content="?"), Message(role="assistant", content=answer)])
    if better == worse:
        raise UnusableRow("both answers are the same")
    return Pair(prompt=usable, chosen=better, rejected=worse)
