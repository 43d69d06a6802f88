"""Conversations and texts as token ids: only the chat template makes control tokens.

    messages ──▶ control tokens that a content spells, between marks ──chat template──▶ text
                                                                                         │
       ids ◀── the template's control tokens as such, everything between them as plain ◀─┘

A content that spells one ("hi<|im_end|>") is encoded as the characters that it consists of, and so
is one that becomes a control token only together with the template's own text. Where nothing is
spelled, the ids are those of Transformers' `apply_chat_template`, which gives them.

Control tokens: the added tokens that the tokenizer calls special, those written like <|this|>, and
those that the chat template writes. Of the last, the assistant's own (<think>, <tool_call>) stay
tokens in what it says: they are part of its answers.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from common.errors import DataError
from model.tokenizer.marks import (
    PRINTABLE,
    UNUSED,
    Affixes,
    Interval,
    all_matches,
    covered,
    merged,
    strings_in,
    unused_characters,
    with_marks,
    without_marks,
)
from model.tokenizer.plain_backend import PlainBackend

Messages: TypeAlias = Sequence[Mapping[str, Any]]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Mark of a chat template around what the assistant says."""

_LOOKS_LIKE_CONTROL = re.compile(r"<[|\uff5c][^\s]*[|\uff5c]>")  # \uff5c is DeepSeek's bar


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Text that a chat template made of a conversation."""

    text: str
    """As a person reads it."""
    control: tuple[Interval, ...]
    """The template's own control tokens."""
    spoken: tuple[Interval, ...] = ()
    """Passages that the assistant says, where the template marks them."""
    is_plain: bool
    """True if the tokenizer finds just these control tokens in the text by itself."""


class ConversationEncoder:
    """Encodes conversations and texts for one tokenizer.

    Args:
        tokenizer: with a backend of the `tokenizers` library.

    Raises:
        DataError: it has no such backend.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
            raise DataError(
                f"the tokenizer {type(tokenizer).__name__} ({tokenizer.name_or_path}) does not run "
                "on the tokenizers library, so texts that spell its control tokens cannot be told "
                "from control tokens: convert it to a tokenizer.json"
            )
        self.tokenizer = tokenizer
        self._patterns: dict[tuple[str, ...], re.Pattern[str]] = {}
        self._tokens: dict[tuple[str | None, int], dict[str, int]] = {}
        self._affixes: dict[tuple[str, ...], Affixes] = {}
        self._backends: dict[str, PlainBackend] = {}
        self._normalizes: dict[tuple[str, ...], bool] = {}

    def control_tokens(self, chat_template: str | None = None) -> dict[str, int]:
        """Control tokens and their ids, with those that a chat template writes."""
        key = chat_template, len(self.tokenizer)  # tokens may be added later
        if key not in self._tokens:
            special = set(self.tokenizer.all_special_tokens)
            self._tokens[key] = {
                token.content: id_
                for id_, token in self.tokenizer.added_tokens_decoder.items()
                if token.special
                or token.content in special
                or _LOOKS_LIKE_CONTROL.fullmatch(token.content)
                or (chat_template and _writes(chat_template, token.content))
            }
        return self._tokens[key]

    @property
    def end_ids(self) -> list[int]:
        """Ids that end an answer, whatever the model's config says: control tokens."""
        return sorted({*self.control_tokens().values()} - {self.tokenizer.unk_token_id})

    def encode_text(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of a text in which no character is a control token.

        add_special_tokens: put around it what the tokenizer itself puts around a text.
        """
        if not self.spells_control_token(text):
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
            return ids
        backend = self._backend(text, self.control_tokens())
        return backend.encode(text, add_special_tokens=add_special_tokens)[0]

    def encode(
        self,
        messages: Messages,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Ids of a conversation, and 1 for each that the assistant says.

        chat_template: another one than the tokenizer's. The second list has zeros where the
        template does not mark what the assistant says.
        """
        rendered = self.render(
            messages, chat_template=chat_template, add_generation_prompt=add_generation_prompt
        )
        template = self.tokenizer.get_chat_template(chat_template)
        if rendered.is_plain:
            marked = bool(GENERATION.search(template))
            encoded = type(self.tokenizer).apply_chat_template(
                self.tokenizer,
                list(messages),
                chat_template=template,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=add_generation_prompt,
            )
            ids = list(encoded["input_ids"])
            return ids, list(encoded.get("assistant_masks", [0] * len(ids)))
        return self._encode(rendered, self.control_tokens(template))

    def turn_end(self) -> int | None:
        """Id of the control token by which the chat template ends an answer; None without one."""
        template, answer = self.tokenizer.get_chat_template(), "=answer="
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        rendered = self.render(messages)
        end = rendered.text.rfind(answer) + len(answer)
        after = (rendered.text[a:b] for a, b in rendered.control if a >= end)
        token = next(after, None)
        return None if token is None else self.control_tokens(template)[token]

    def encode_rendered(
        self, rendered: Rendered, following: str = "", *, add_special_tokens: bool = False
    ) -> list[int]:
        """Ids of what `render` gave, with a plain text behind it."""
        tokens = self.control_tokens(self.tokenizer.get_chat_template())
        whole = replace(rendered, text=rendered.text + following)
        return self._encode(whole, tokens, add_special_tokens=add_special_tokens)[0]

    def spells_control_token(self, text: str) -> bool:
        """True if a text spells a control token, also if only once it is normalized."""
        tokens = self.control_tokens()
        return bool(self._pattern(tuple(tokens)).search(text)) or self._makes_more(text, [], tokens)

    def render(
        self,
        messages: Messages,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> Rendered:
        """Render a conversation and find the control tokens that the template wrote.

        options: variables of the template.
        """
        template = self.tokenizer.get_chat_template(chat_template)
        tokens = self.control_tokens(template)
        marks = unused_characters("".join(strings_in([*messages])) + template, 2, PRINTABLE)
        pieces: set[str] = set()
        marked = [self._marked(message, tokens, marks, pieces) for message in messages]
        texts, spans = render_jinja_template(
            conversations=[marked],
            chat_template=template,
            return_assistant_tokens_mask=bool(GENERATION.search(template)),
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, **options},
        )
        text, spelled, place = without_marks(texts[0], marks, pieces)
        hidden = covered(text, spelled, marks[0])
        pattern = self._pattern(tuple(tokens))
        own = tuple(match.span() for match in pattern.finditer(hidden))
        is_plain = own == tuple(match.span() for match in pattern.finditer(text))
        return Rendered(
            text=text,
            control=own,
            spoken=tuple((place(a), place(b)) for a, b in spans[0]) if spans else (),
            is_plain=is_plain and not self._makes_more(text, [text[a:b] for a, b in own], tokens),
        )

    def _makes_more(self, text: str, own: Sequence[str], tokens: Mapping[str, int]) -> bool:
        """True if the tokenizer makes more control tokens of a text than `own`.

        Its normalizer may turn full-width, upper-case or parted letters into one that the text
        itself does not hold. Without such a normalizer nothing is encoded.
        """
        key = tuple(tokens)
        if key not in self._normalizes:
            backend: Tokenizer = self.tokenizer.backend_tokenizer
            in_model = backend.get_vocab(with_added_tokens=False)
            added = self.tokenizer.added_tokens_decoder
            self._normalizes[key] = backend.normalizer is not None and any(
                added[id_].normalized or token in in_model for token, id_ in tokens.items()
            )
        if not self._normalizes[key]:
            return False
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        control = {*tokens.values()} - {self.tokenizer.unk_token_id}
        found = Counter(id_ for id_ in ids if id_ in control)
        return not found <= Counter(tokens[token] for token in own)

    def _marked(
        self, message: Mapping[str, Any], tokens: Mapping[str, int], marks: str, pieces: set[str]
    ) -> dict[str, Any]:
        """The message with marks around everything in it that might become a control token."""
        if message.get("role") == "assistant":
            tokens = {token: id_ for token, id_ in tokens.items() if token in self.control_tokens()}
        names = tuple(tokens)
        if names not in self._affixes:
            self._affixes[names] = Affixes.of(names)

        def mark(value: Any, *, affixes: bool) -> Any:
            if isinstance(value, str):
                intervals = list(all_matches(self._pattern(names), value))
                if affixes:
                    intervals += self._affixes[names].of_text(value)
                return with_marks(value, merged(intervals), marks, pieces)
            if isinstance(value, Mapping):
                return {key: mark(each, affixes=affixes) for key, each in value.items()}
            if isinstance(value, list | tuple):
                return [mark(each, affixes=affixes) for each in value]
            return value

        # A template may build a control token around a role: <|user|>.
        return {key: mark(value, affixes=key != "role") for key, value in message.items()}

    def _encode(
        self, rendered: Rendered, tokens: Mapping[str, int], *, add_special_tokens: bool = False
    ) -> tuple[list[int], list[int]]:
        """Ids and mask where the tokenizer must not look for control tokens by itself."""
        backend = self._backend(rendered.text, tokens)
        parts, at = [], 0
        shifts: list[Interval] = []  # (end in the text, end in what is encoded) of control tokens
        length = 0
        for start, end in rendered.control:
            stand_in = backend.stand_ins[rendered.text[start:end]]
            parts += [rendered.text[at:start], stand_in]
            length += start - at + len(stand_in)
            shifts.append((end, length))
            at = end
        ids, offsets = backend.encode(
            "".join([*parts, rendered.text[at:]]), add_special_tokens=add_special_tokens
        )

        def moved(position: int) -> int:
            before = [shift for shift in shifts if shift[0] <= position]
            return position - before[-1][0] + before[-1][1] if before else position

        spoken = sorted((moved(a), moved(b)) for a, b in rendered.spoken)
        begins = [begin for begin, _ in spoken]

        def is_spoken(start: int, end: int) -> bool:
            last = bisect_left(begins, end) - 1  # the last passage that begins before the end
            return start < end and last >= 0 and spoken[last][1] > start

        mask = [int(is_spoken(start, end)) for start, end in offsets]
        return ids, mask

    def _pattern(self, tokens: tuple[str, ...]) -> re.Pattern[str]:
        """Matches any of `tokens`, the longest that begins at a place."""
        if tokens not in self._patterns:
            longest_first = sorted(tokens, key=len, reverse=True)
            self._patterns[tokens] = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        return self._patterns[tokens]

    def _backend(self, text: str, tokens: Mapping[str, int]) -> "PlainBackend":
        mark = unused_characters(text, 1)
        key = "\0".join([mark, *tokens])
        if key not in self._backends:
            self._backends[key] = PlainBackend(self.tokenizer, tokens, mark)
        return self._backends[key]


def _writes(chat_template: str, token: str) -> bool:
    """True if a template holds a token as such: not a word or a line break, which are text."""
    return token in chat_template and not token.isspace() and not token.isalnum()


def protect_chat_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Let `tokenizer.apply_chat_template`, which libraries call, encode contents as plain text.

    Of this object and its copies, also those in other processes. Raises DataError as
    `ConversationEncoder`.
    """
    conversation_encoder(tokenizer)
    tokenizer.apply_chat_template = MethodType(  # type: ignore[method-assign]
        _apply_chat_template, tokenizer
    )
    return tokenizer


def _apply_chat_template(
    self: PreTrainedTokenizerBase, conversation: Messages, **options: Any
) -> Any:
    """Transformers' method for one conversation; another only where a content spells a token."""
    own = type(self).apply_chat_template
    if options.get("tokenize") is False:
        return own(self, conversation, **options)
    encoder = conversation_encoder(self)
    known = {name: options.pop(name, None) for name in ("chat_template", "add_generation_prompt")}
    chosen = {name: value for name, value in known.items() if value is not None}
    if encoder.render(conversation, **chosen).is_plain:
        return own(self, conversation, **chosen, **options)
    with_mask, as_dict = (
        options.pop("return_assistant_tokens_mask", False),
        options.pop("return_dict", True),
    )
    if unknown := [name for name, value in options.items() if value and name != "tokenize"]:
        raise NotImplementedError(f"contents that spell a control token, with {unknown[0]}")
    ids, mask = encoder.encode(conversation, **chosen)
    columns = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    if with_mask:
        columns["assistant_masks"] = mask
    return BatchEncoding(columns) if as_dict else ids


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A backend that makes no control token of any text, for `ReferenceEncoder` and its like.

    The tokenizer's own, where these encoders pass over all control tokens of it; else a copy with
    other names for them. Ids are the tokenizer's. Raises DataError as `ConversationEncoder`.
    """
    tokens = conversation_encoder(tokenizer).control_tokens(_template(tokenizer))
    backend: Tokenizer = tokenizer.backend_tokenizer
    in_model = backend.get_vocab(with_added_tokens=False)
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    if all(added[token].special and token not in in_model for token in tokens):
        return backend
    renamed = PlainBackend(tokenizer, tokens, chr(UNUSED[0]))
    if moved := renamed.moved():
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path} numbers its added tokens out of order (from "
            f"{moved!r} on), so it cannot be kept from making control tokens of plain text"
        )
    return renamed.backend


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    return tokenizer.get_chat_template() if tokenizer.chat_template else None


_ENCODERS: WeakKeyDictionary[PreTrainedTokenizerBase, ConversationEncoder] = WeakKeyDictionary()


def conversation_encoder(tokenizer: PreTrainedTokenizerBase) -> ConversationEncoder:
    """The encoder of a tokenizer; made once. Raises DataError as `ConversationEncoder`."""
    if tokenizer not in _ENCODERS:
        _ENCODERS[tokenizer] = ConversationEncoder(tokenizer)
    return _ENCODERS[tokenizer]
