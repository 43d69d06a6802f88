"""A data set's folder as conversations or pairs, with the rows that are skipped.

folder ──read_rows──▶ row ──format──▶ Chat or Pair ──identity, language──▶ Sample
                        └── broken, empty, of another kind ──▶ SkippedRow (counted by reason)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import DataError
from corpus.bad_rows import OnBadRow, listed_rows, refuse_bad_rows
from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS, check_ratings
from corpus.chats.identity import (
    CLAIMS_ASSISTANT,
    CLAIMS_ROLE,
    Identity,
    claims_assistant,
    claims_role,
    with_identity,
)
from corpus.chats.language import Language, language_of
from corpus.chats.messages import Chat, MalformedRow, Message, Pair, UnusableRow
from corpus.chats.recipes import ChatSetRecipe, SetKind, load_set
from corpus.chats.rows import LocatedRow, Row, SkippedRow, matching_files, read_rows
from corpus.sources.compression import archive_type
from corpus.text_fields import BadField, excerpt_of

BAD_ROW_REMEDY = "Mend them in the data, or set `on_bad_row: skip` to leave them out"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A usable conversation or preference pair of a set."""

    content: Chat | Pair
    """The conversation or the pair."""
    language: Language
    """Language of its turns."""
    place: str
    """File inside the data set's folder, and line or row number: `train.jsonl#12`."""


LARGEST_CHECKED = 8 * 1024**2
"""Bytes of a set that is read before a run begins; a larger one would take seconds."""


def check_set(
    kind: SetKind, name: str, stored: Sequence[tuple[Path, str]], on_bad_row: OnBadRow
) -> None:
    """Read a small set on this machine before a run begins.

    stored: (path, name below the set's folder) of its files; archives are not looked into.
    Raises DataError for malformed rows where they are refused, where no row can be used, and where
    no file is the recipe's.
    """
    recipe = load_set(kind, name)
    # A relative pattern matches a path's end, so in any folder.
    patterns = [pattern.removeprefix("**/") for pattern in recipe.files]
    wanted = [(p, n) for p, n in stored if any(PurePosixPath(n).match(x) for x in patterns)]
    if not wanted and stored and not any(archive_type(n, streams=False) for _, n in stored):
        raise DataError(
            f"{name}: none of its {len(stored):,} files ({stored[0][1]!r}, …) is called like "
            f"{' or '.join(recipe.files)}, which data_recipes/{kind}/{name}.yaml reads: give its "
            "own files, or correct `files` there"
        )
    if not wanted or sum(path.stat().st_size for path, _ in wanted) > LARGEST_CHECKED:
        return
    path, below = wanted[0]
    folder = path.parents[len(PurePosixPath(below).parts) - 1]
    usable, skipped = 0, list[SkippedRow]()
    found = read_rows(folder, [path for path, _ in wanted])
    for item in samples_of_rows(kind, recipe, found, Identity()):
        if isinstance(item, SkippedRow):
            skipped.append(item)
        else:
            usable += 1
    if on_bad_row == "fail":
        refuse_bad_rows(name, [str(row) for row in skipped if row.malformed], BAD_ROW_REMEDY)
    if not usable:
        rows = listed_rows([str(row) for row in skipped])
        raise DataError(f"{name}: none of its rows can be used: {rows or 'it has none'}")


def read_samples(
    kind: SetKind, folder: Path, name: str, identity: Identity = Identity()
) -> Iterator[Sample | SkippedRow]:
    """Conversations or pairs of the set `name` whose files stand in `folder`.

    Raises ConfigError for a bad recipe or a test split, DataError when its files aren't there.
    """
    recipe = load_set(kind, name)
    files = matching_files(folder, recipe.files, where=f"data_recipes/{kind}/{name}.yaml")
    yield from samples_of_rows(kind, recipe, read_rows(folder, files), identity)


def samples_of_rows(
    kind: SetKind,
    recipe: ChatSetRecipe,
    rows: Iterable[LocatedRow | SkippedRow],
    identity: Identity,
) -> Iterator[Sample | SkippedRow]:
    """Conversations or pairs in rows of a set, and the rows that are skipped, in order."""
    for item in rows:
        if isinstance(item, SkippedRow):
            yield item
            continue
        row = _renamed(item.row, recipe.fields)
        try:
            contents = [
                (content, _language(recipe, content)) for content in _parse(kind, recipe, row)
            ]
            contents = [
                (_as_ours(content, recipe, language, identity), language)
                for content, language in contents
            ]
        except UnusableRow as reason:
            yield SkippedRow(
                file=item.file,
                line=item.line,
                reason=_reason(reason, recipe.fields),
                excerpt=excerpt_of(item.row),
                malformed=isinstance(reason, MalformedRow),
            )
            continue
        for content, language in contents:
            yield Sample(content=content, language=language, place=f"{item.file}#{item.line}")


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
        check_ratings(row)
        return [PAIR_FORMATS[recipe.format](row)]
    return CHAT_FORMATS[recipe.format](row)


def _as_ours(
    content: Chat | Pair, recipe: ChatSetRecipe, language: Language, identity: Identity
) -> Chat | Pair:
    """A conversation with our model's name in the place of another's. Raises UnusableRow."""
    # As the file has it: ours may have a name of these.
    if recipe.other_assistants == "leave_out" and any(map(claims_assistant, _learned(content))):
        raise UnusableRow(CLAIMS_ASSISTANT)
    others = recipe.identity
    if others is None or not isinstance(content, Chat):
        return content
    if others.about_itself:
        said = [message["content"] for message in content.messages if message["role"] != "user"]
        if any(claims_role(text) for text in said):
            raise UnusableRow(CLAIMS_ROLE)
    chinese = language == "zh"
    name = identity.name_zh if chinese else identity.name
    author = identity.author_zh if chinese else identity.author
    messages = tuple(
        Message(role=m["role"], content=with_identity(m["content"], others, name, author))
        for m in content.messages
    )
    return dataclasses.replace(content, messages=messages)


def _learned(content: Chat | Pair) -> list[str]:
    """Texts that a training makes likelier."""
    if isinstance(content, Pair):
        return [content.chosen]
    return [m["content"] for m in content.messages if m["role"] == "assistant"]


def _language(recipe: ChatSetRecipe, content: Chat | Pair) -> Language:
    if isinstance(content, Chat):
        messages = content.messages
    else:
        messages = (*content.prompt, Message(role="assistant", content=content.chosen))
    return language_of(messages, without="zh" if recipe.language == "zh" else "en")
