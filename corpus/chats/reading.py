"""A data set's folder as conversations or pairs, with what was set aside.

folder ──read_rows──▶ row ──format──▶ Chat … ──replace, language──▶ SetItem
                        └── broken, empty, of another kind ──▶ SetAside (counted by reason)
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.chats.messages import Chat, Language, Message, Pair, Unusable, language_of
from corpus.chats.recipes import ChatSetRecipe, load_set
from corpus.chats.rows import BrokenRow, Located, Row, matching_files, read_rows


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A row that is not used, and why."""

    file: str
    """Path inside the data set's folder."""
    line: int
    """Line or row number, from 1."""
    reason: str
    """A few words, the same for all rows of a kind."""
    excerpt: str
    """Its beginning."""


@dataclass(frozen=True, kw_only=True)
class ReadChat:
    """A usable conversation of a set."""

    chat: Chat
    """The conversation."""
    language: Language
    """Its language."""
    place: str
    """File inside the data set's folder, and line or row number: `train.jsonl#12`."""


@dataclass(frozen=True, kw_only=True)
class ReadPair:
    """A usable preference pair of a set."""

    pair: Pair
    """The pair."""
    language: Language
    """Its language."""
    place: str
    """File inside the data set's folder, and line or row number: `train.jsonl#12`."""


def read_chats(folder: Path, name: str) -> Iterator[ReadChat | SetAside]:
    """Conversations of the SFT set `name` whose files stand in `folder`.

    Raises ConfigError for a bad recipe or a test split, DataError when its files aren't there.
    """
    recipe = load_set("sft", name)
    convert = CHAT_FORMATS[recipe.format]
    for place, row in _rows(folder, "sft", name, recipe):
        if isinstance(row, SetAside):
            yield row
            continue
        try:
            for chat in convert(row):
                messages = _replaced(chat.messages, recipe.replace)
                yield ReadChat(
                    chat=dataclasses.replace(chat, messages=messages),
                    language=_language(recipe, row, messages),
                    place=_place(place),
                )
        except Unusable as reason:
            yield _set_aside(place, str(reason))


def read_pairs(folder: Path, name: str) -> Iterator[ReadPair | SetAside]:
    """Pairs of the preference set `name` whose files stand in `folder`. Raises as read_chats."""
    recipe = load_set("preferences", name)
    convert = PAIR_FORMATS[recipe.format]
    for place, row in _rows(folder, "preferences", name, recipe):
        if isinstance(row, SetAside):
            yield row
            continue
        try:
            pair = convert(row)
        except Unusable as reason:
            yield _set_aside(place, str(reason))
            continue
        language = _language(recipe, row, pair.prompt)
        yield ReadPair(pair=pair, language=language, place=_place(place))


def _rows(
    folder: Path, kind: Literal["sft", "preferences"], name: str, recipe: ChatSetRecipe
) -> Iterator[tuple[Located, Row] | tuple[None, SetAside]]:
    files = matching_files(folder, recipe.files, where=f"data_recipes/{kind}/{name}.yaml")
    for item in read_rows(folder, files):
        if isinstance(item, BrokenRow):
            yield None, SetAside(**dataclasses.asdict(item))
        else:
            renamed = {ours: item.row.get(theirs) for ours, theirs in recipe.fields.items()}
            yield item, {**item.row, **renamed}


def _place(place: Located | None) -> str:
    assert place is not None
    return f"{place.file}#{place.line}"


def _set_aside(place: Located | None, reason: str) -> SetAside:
    assert place is not None
    return SetAside(
        file=place.file, line=place.line, reason=reason, excerpt=str(dict(place.row))[:200]
    )


def _replaced(
    messages: tuple[Message, ...], replacements: Mapping[str, str]
) -> tuple[Message, ...]:
    if not replacements:
        return messages
    replaced = []
    for message in messages:
        content = message["content"]
        for old, new in replacements.items():
            content = content.replace(old, new)
        replaced.append(Message(role=message["role"], content=content))
    return tuple(replaced)


def _language(recipe: ChatSetRecipe, row: Row, messages: tuple[Message, ...]) -> Language:
    if recipe.language != "mixed":
        return recipe.language
    code: Any = row.get(recipe.language_field) if recipe.language_field else None
    if isinstance(code, str) and code[:2] in ("zh", "en"):
        return "zh" if code.startswith("zh") else "en"
    return language_of(messages)
