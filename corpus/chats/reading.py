"""A data set's folder as conversations or pairs, with the rows that are skipped.

folder ──read_rows──▶ row ──format──▶ Chat or Pair ──replace, language──▶ Sample
                        └── broken, empty, of another kind ──▶ SkippedRow (counted by reason)
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.chats.messages import (
    Chat,
    Language,
    MalformedRow,
    Message,
    Pair,
    UnusableRow,
    language_of,
)
from corpus.chats.recipes import ChatSetRecipe, SetKind, load_set
from corpus.chats.rows import Row, SkippedRow, matching_files, read_rows
from corpus.text_fields import BadField, excerpt_of


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A usable conversation or preference pair of a set."""

    content: Chat | Pair
    """The conversation or the pair."""
    language: Language
    """Language of its turns."""
    place: str
    """File inside the data set's folder, and line or row number: `train.jsonl#12`."""


def read_samples(kind: SetKind, folder: Path, name: str) -> Iterator[Sample | SkippedRow]:
    """Conversations or pairs of the set `name` whose files stand in `folder`.

    Raises ConfigError for a bad recipe or a test split, DataError when its files aren't there.
    """
    recipe = load_set(kind, name)
    files = matching_files(folder, recipe.files, where=f"data_recipes/{kind}/{name}.yaml")
    for item in read_rows(folder, files):
        if isinstance(item, SkippedRow):
            yield item
            continue
        row = _renamed(item.row, recipe.fields)
        try:
            contents = _parse(kind, recipe, row)
        except UnusableRow as reason:
            yield SkippedRow(
                file=item.file,
                line=item.line,
                reason=_reason(reason, recipe.fields),
                excerpt=excerpt_of(item.row),
                malformed=isinstance(reason, MalformedRow),
            )
            continue
        for content in contents:
            yield Sample(
                content=content,
                language=_language(recipe, row, content),
                place=f"{item.file}#{item.line}",
            )


def _renamed(row: Row, fields: Mapping[str, str]) -> Row:
    """A row with the format's names for its fields; one that it lacks is absent."""
    kept = {name: value for name, value in row.items() if name not in fields}
    return kept | {ours: row[theirs] for ours, theirs in fields.items() if theirs in row}


def _reason(reason: UnusableRow, fields: Mapping[str, str]) -> str:
    """A reason with the name that a field has in the file."""
    if isinstance(reason, MalformedRow) and reason.field in fields:
        return str(BadField(fields[reason.field], reason.found))
    return str(reason)


def _parse(kind: SetKind, recipe: ChatSetRecipe, row: Row) -> Sequence[Chat | Pair]:
    if kind == "preferences":
        return [PAIR_FORMATS[recipe.format](row)]
    return [
        dataclasses.replace(chat, messages=_replaced(chat.messages, recipe.replace))
        for chat in CHAT_FORMATS[recipe.format](row)
    ]


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


def _language(recipe: ChatSetRecipe, row: Row, content: Chat | Pair) -> Language:
    if recipe.language != "mixed":
        return recipe.language
    code: Any = row.get(recipe.language_field) if recipe.language_field else None
    if isinstance(code, str) and code[:2] in ("zh", "en"):
        return "zh" if code.startswith("zh") else "en"
    return language_of(content.messages if isinstance(content, Chat) else content.prompt)
