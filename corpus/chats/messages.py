"""Chat messages, conversations and preference pairs, checked to be usable for training.

    [system]  user  assistant  user  assistant …  assistant

Texts lose surrounding blank lines and nothing else. A conversation with an empty turn, a wrong
order, or chat control tokens inside its text is an `UnusableRow`: the caller counts it and keeps
the reason. One with another value than a text where a text belongs is a `MalformedRow`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from corpus.text_fields import BadField, kind_of, text_in, text_of

CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""Inside a text they would end a turn or forge one."""

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""Role names of data sets -> the three roles."""


class Message(TypedDict):
    """One turn."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation to be learned."""

    messages: tuple[Message, ...]
    """The turns; the last is the assistant's."""
    style: str = ""
    """Of an answer to a multiple-choice question: `letter`, `explained` or `answer_first`; else
    empty."""

    @property
    def texts(self) -> list[str]:
        """Text of each turn."""
        return [message["content"] for message in self.messages]

    def columns(self) -> dict[str, Any]:
        """As the columns of an SFT job's data."""
        return {"messages": self.messages, "style": self.style}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one prompt, the first preferred."""

    prompt: tuple[Message, ...]
    """Turns before the answer; the last is the user's."""
    chosen: str
    """The preferred answer."""
    rejected: str
    """The other one."""

    @property
    def texts(self) -> list[str]:
        """Text of each turn and of both answers."""
        return [*(message["content"] for message in self.prompt), self.chosen, self.rejected]

    def columns(self) -> dict[str, Any]:
        """As the columns of a DPO job's data: three lists of messages."""
        return {
            "prompt": self.prompt,
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
        }


class UnusableRow(Exception):
    """A row that is not trained on; its text is the reason, a few words that can be counted."""


class MalformedRow(UnusableRow):
    """A row with another value than its format has in a field."""

    def __init__(self, field: str, found: str) -> None:
        super().__init__(str(BadField(field, found)))
        self.field, self.found = field, found


def turn_text(row: Mapping[str, Any], field: str, *, optional: bool = False) -> str:
    """Text of a turn in a field. Raises MalformedRow.

    optional: the field may be absent or null, which is an empty text.
    """
    try:
        return trimmed(text_in(row, field, optional=optional))
    except BadField as bad:
        raise MalformedRow(bad.field, bad.found) from None


def checked_text(value: Any, field: str) -> str:
    """A value that must be the text of a turn. Raises MalformedRow."""
    try:
        return trimmed(text_of(value, field))
    except BadField as bad:
        raise MalformedRow(bad.field, bad.found) from None


def trimmed(text: str) -> str:
    """A turn's text without blank lines around it."""
    return text.strip("\r\n").rstrip()


def listed(row: Mapping[str, Any], field: str) -> list[Any]:
    """A list that is not empty. Raises UnusableRow for an empty one, MalformedRow for no list."""
    value = row.get(field)
    if value is None or value == []:
        raise UnusableRow(f"no {field}")
    if not isinstance(value, list):
        raise MalformedRow(field, f"{kind_of(value)}, not a list")
    return value


def turns(pairs: Iterable[tuple[str, str]], *, system: str = "") -> tuple[Message, ...]:
    """(user, assistant) pairs as messages. Raises UnusableRow."""
    messages: list[Message] = []
    if system.strip():
        messages.append({"role": "system", "content": system})
    for question, answer in pairs:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return checked(messages)


def by_role(row: Mapping[str, Any], field: str, *, role: str, content: str) -> list[Message]:
    """Native turns in a field with this pair of keys as messages.

    Raises UnusableRow for an unknown role, MalformedRow for a turn that is none.
    """
    messages: list[Message] = []
    for turn in listed(row, field):
        if not isinstance(turn, dict):
            raise MalformedRow(f"{field}[]", f"{kind_of(turn)}, not an object")
        name = turn_text(turn, role).strip().lower()
        called = turn.get("tool_calls") or turn.get("function_call")
        if called or name in ("function_call", "observation", "tool", "function", "ipython"):
            raise UnusableRow("tool call")
        if name not in ROLES:
            raise UnusableRow("unknown role")
        text = _content(turn, content, optional=ROLES[name] == "system")
        if ROLES[name] == "system" and not text.strip():
            continue  # an empty system turn says nothing; several sets have one in every row
        messages.append({"role": ROLES[name], "content": text})
    return messages


def _content(turn: Mapping[str, Any], field: str, *, optional: bool) -> str:
    """Text of a turn, which some sets keep as a list of parts. Raises MalformedRow."""
    parts = turn.get(field)
    if not isinstance(parts, list):
        return turn_text(turn, field, optional=optional)
    texts = []
    for part in parts:
        if isinstance(part, dict):
            if (kind := part.get("type", "text")) != "text":
                found = f"{kind[:40]!r}, not text" if isinstance(kind, str) else kind_of(kind)
                raise MalformedRow(f"{field}[].type", found)
            texts.append(turn_text(part, "text" if "text" in part else "value"))
        else:
            texts.append(checked_text(part, f"{field}[]"))
    return trimmed("".join(texts))


def checked(messages: list[Message], *, last: str = "assistant") -> tuple[Message, ...]:
    """The same messages, proved usable. Raises UnusableRow."""
    body = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not body:
        raise UnusableRow("no turns")
    if body[-1]["role"] != last:
        raise UnusableRow("does not end with the " + last)
    for index, message in enumerate(body):
        if message["role"] != ("user", "assistant")[index % 2]:
            raise UnusableRow("turns do not alternate")
    for message in messages:
        if not message["content"].strip():
            raise UnusableRow(
                "empty answer" if message["role"] == "assistant" else "empty question"
            )
        # They could be encoded as text, but are what another program's template left behind: turns
        # inside of a turn.
        if any(token in message["content"] for token in CONTROL_TOKENS):
            raise UnusableRow("control token in text")
    return tuple(messages)
