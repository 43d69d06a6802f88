"""Chat messages, conversations and preference pairs, checked to be usable for training.

    [system]  user  assistant  user  assistant …  assistant

Texts lose surrounding blank lines and nothing else. A conversation with an empty turn, a wrong
order, or chat control tokens inside its text is `UnusableRow`: the caller counts it and keeps the
reason.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

Language: TypeAlias = Literal["zh", "en"]

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

_CHINESE = re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")
_WORD = re.compile(r"[A-Za-z]+")


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
    """Of an answer to a multiple-choice question: `letter` or `explained`; else empty."""

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


def as_text(value: Any) -> str:
    """A turn's text. Some formats keep it as a list of parts."""
    if isinstance(value, list):
        value = "".join(
            str(part.get("value") or part.get("text") or "")
            if isinstance(part, dict)
            else str(part)
            for part in value
        )
    if value is None:
        return ""
    return str(value).strip("\r\n").rstrip()


def turns(pairs: Iterable[tuple[Any, Any]], *, system: Any = "") -> tuple[Message, ...]:
    """(user, assistant) pairs as messages. Raises UnusableRow."""
    messages: list[Message] = []
    if as_text(system).strip():
        messages.append({"role": "system", "content": as_text(system)})
    for question, answer in pairs:
        messages.append({"role": "user", "content": as_text(question)})
        messages.append({"role": "assistant", "content": as_text(answer)})
    return checked(messages)


def by_role(native: Iterable[Any], *, role: str, content: str) -> list[Message]:
    """Native turns with this pair of keys as messages. Raises UnusableRow for an unknown role."""
    messages: list[Message] = []
    for turn in native:
        if not isinstance(turn, dict):
            raise UnusableRow("a turn is not an object")
        name = str(turn.get(role) or "").lower()
        if name in ("function_call", "observation", "tool", "function"):
            raise UnusableRow("tool call")
        if name not in ROLES:
            raise UnusableRow("unknown role")
        text = as_text(turn.get(content))
        if ROLES[name] == "system" and not text.strip():
            continue  # an empty system turn says nothing; several sets have one in every row
        messages.append({"role": ROLES[name], "content": text})
    return messages


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
        if any(token in message["content"] for token in CONTROL_TOKENS):
            raise UnusableRow("control token in text")
    return tuple(messages)


def language_of(messages: Iterable[Message]) -> Language:
    """Chinese when at least a fifth of its words are, a character counting as a word."""
    text = " ".join(message["content"] for message in messages if message["role"] != "system")
    text = text[:4000]
    chinese = len(_CHINESE.findall(text))
    return "zh" if chinese and chinese >= 0.2 * (chinese + len(_WORD.findall(text))) else "en"
