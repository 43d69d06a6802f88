"""Native rows of SFT and preference data sets as conversations and pairs.

One small function per format; a recipe names it in `format`. Each takes a row and returns what can
be learned from it, or raises `UnusableRow` with a reason that is counted. A new format is a new
function and a line in the table at the end.
"""

import re
from collections.abc import Callable
from typing import Any

from corpus.chats.choices import hub_choices, llm_adapters, logiqa, wanjuan_exam
from corpus.chats.messages import Chat, Message, Pair, UnusableRow, as_text, by_role, checked, turns
from corpus.chats.rows import Row

_MOSS_TAGS = re.compile(r"^<\|(Human|MOSS|Commands)\|>:\s*|\s*<eo[hmc]>\s*$")


def alpaca(row: Row) -> list[Chat]:
    """instruction, input (may be absent), output or response, history [[question, answer], …]."""
    answer = row["output"] if "output" in row else row.get("response")
    pairs = [*_history(row), (_instruction(row), answer)]
    return [Chat(messages=turns(pairs, system=row.get("system")))]


def sharegpt(row: Row) -> list[Chat]:
    """conversations: [{from, value}, …]; a `system_prompt` beside it is kept."""
    messages = by_role(_listed(row, "conversations"), role="from", content="value")
    system = as_text(row.get("system_prompt") or row.get("system"))
    if system.strip() and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return [Chat(messages=checked(messages))]


def openai_messages(row: Row) -> list[Chat]:
    """messages: [{role, content}, …]; content is a text or a list of parts."""
    return [
        Chat(messages=checked(by_role(_listed(row, "messages"), role="role", content="content")))
    ]


def question_answer(row: Row) -> list[Chat]:
    """question, answer."""
    return [Chat(messages=turns([(row.get("question"), row.get("answer"))]))]


def xtuner(row: Row) -> list[Chat]:
    """conversation: [{system, input, output}, …]; the first system prompt counts."""
    native = [turn for turn in _listed(row, "conversation") if isinstance(turn, dict)]
    system = native[0].get("system") if native else ""
    return [
        Chat(messages=turns([(t.get("input"), t.get("output")) for t in native], system=system))
    ]


def moss(row: Row) -> list[Chat]:
    """chat: {turn_1: {Human, Commands, MOSS, …}, …}, with tags; `meta_instruction` is left out."""
    chat = row.get("chat")
    if not isinstance(chat, dict):
        raise UnusableRow("no turns")
    pairs = []
    for number in range(1, len(chat) + 1):
        turn = chat.get(f"turn_{number}")
        if not isinstance(turn, dict):
            raise UnusableRow("turns are not numbered through")
        if _untagged(turn.get("Commands")) not in ("", "None"):
            raise UnusableRow("tool call")
        pairs.append((_untagged(turn.get("Human")), _untagged(turn.get("MOSS"))))
    return [Chat(messages=turns(pairs))]


def instruction_pair(row: Row) -> Pair:
    """instruction, input (may be absent), chosen(_response), rejected(_response)."""
    prompt: list[Message] = [{"role": "user", "content": _instruction(row)}]
    chosen = row["chosen_response"] if "chosen_response" in row else row.get("chosen")
    rejected = row["rejected_response"] if "rejected_response" in row else row.get("rejected")
    return _pair(prompt, chosen, rejected)


def message_pair(row: Row) -> Pair:
    """chosen and rejected are dialogues [{role, content}, …] that differ in their last turn."""
    chosen = by_role(_listed(row, "chosen"), role="role", content="content")
    rejected = by_role(_listed(row, "rejected"), role="role", content="content")
    if chosen[:-1] != rejected[:-1]:
        raise UnusableRow("the two dialogues differ before the answer")
    if not chosen or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise UnusableRow("does not end with the assistant")
    return _pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def sharegpt_pair(row: Row) -> Pair:
    """conversations [{from, value}, …]; chosen and rejected as {from, value} or as texts."""
    prompt = by_role(_listed(row, "conversations"), role="from", content="value")
    return _pair(prompt, _value(row.get("chosen")), _value(row.get("rejected")))


def ranked_outputs(row: Row) -> Pair:
    """instruction, input, history, output [best, …, worst]: the best against the worst."""
    outputs = _listed(row, "output")
    if len(outputs) < 2:
        raise UnusableRow("fewer than two answers")
    history = [message for q, a in _history(row) for message in _exchange(q, a)]
    prompt = [*history, Message(role="user", content=_instruction(row))]
    return _pair(prompt, outputs[0], outputs[-1])


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
    instruction, further = as_text(row.get("instruction")), as_text(row.get("input"))
    return f"{instruction}\n{further}" if further.strip() else instruction


def _history(row: Row) -> list[tuple[str, str]]:
    history = row.get("history") or []
    if not all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in history):
        raise UnusableRow("history is not a list of pairs")
    return [(as_text(question), as_text(answer)) for question, answer in history]


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _listed(row: Row, key: str) -> list[Any]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise UnusableRow(f"no {key}")
    return value


def _untagged(text: Any) -> str:
    return _MOSS_TAGS.sub("", as_text(text)).strip()


def _value(answer: Any) -> Any:
    return answer.get("value") if isinstance(answer, dict) else answer


def _pair(prompt: list[Message], chosen: Any, rejected: Any) -> Pair:
    better, worse = as_text(chosen), as_text(rejected)
    usable = checked(prompt, last="user")
    for answer in (better, worse):
        checked([Message(role="user", content="?"), Message(role="assistant", content=answer)])
    if better == worse:
        raise UnusableRow("both answers are the same")
    return Pair(prompt=usable, chosen=better, rejected=worse)
