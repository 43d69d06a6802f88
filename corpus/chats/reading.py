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
from corpus.chats.messages import Chat, Language, Message, Pair, UnusableRow, language_of
from corpus.chats.recipes import ChatSetRecipe, SetKind, load_set
from corpus.chats.rows import Row, SkippedRow, matching_files, read_rows


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
        renamed = {ours: item.row.get(theirs) for ours, theirs in recipe.fields.items()}
        row = {**item.row, **renamed}
        try:
            contents = _parse(kind, recipe, row)
        except UnusableRow as reason:
            excerpt = str(dict(item.row))[:200]
            yield SkippedRow(file=item.file, line=item.line, reason=str(reason), excerpt=excerpt)
            continue
        for content in contents:
            yield Sample(
                content=content,
                language=_language(recipe, row, content),
                place=f"{item.file}#{item.line}",
            )


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
