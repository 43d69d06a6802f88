"""The text of a row that has no format of its own: by the recipe's `text_key`, or by a guess.

text_key: body                     the field `body`
text_key: data.article.text        a field inside of others; a list of objects gives each one's
text_key: [question, answer]       several, joined by line ends
(none)                             `text`, `content`, `正文`, … — the first that is there; of a
                                   conversation (ShareGPT's, OpenAI's form) its turns
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corpus.formats.record_formats import Rejected, conversation
from corpus.text_fields import kind_of

GUESSED = (
    "text", "content", "contents", "body", "article", "document", "passage", "paragraphs",
    "raw_content", "page_content", "full_text", "fulltext", "plain_text", "markdown", "story",
    "正文", "内容", "文本", "全文", "文章", "內容",
)  # fmt: skip
"""Names of fields that hold the text, most likely first; in capitals they count, too."""

GUESSED_PAIRS = (
    ("question", "answer"),
    ("instruction", "input", "output"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("问题", "答案"),
    ("问题", "回答"),
)
"""Fields that together are a text."""

TITLES = ("title", "标题", "題目", "headline")

MOST_SHOWN = 20
"""Keys that a message lists."""


CONVERSATIONS = ("conversations", "conversation", "messages", "dialogue", "dialog", "turns")
"""Fields whose lists of {"from", "value"} or {"role", "content"} are a conversation."""


_TURNS = ({"from", "value"}, {"role", "content"})


def columns_of(text_key: str | Sequence[str]) -> list[str]:
    """The fields that a recipe's `text_key` names, in order."""
    return [key for key in ([text_key] if isinstance(text_key, str) else text_key) if key]


class TextRecord(dict[str, Any]):
    """A record {"text", …} whose text is known already, whatever `text_key` says."""


class TextKeys:
    """The fields that are taken of the rows of a corpus; remembers what it took."""

    def __init__(self, text_key: str | Sequence[str] = "") -> None:
        self._keys = columns_of(text_key)
        self.taken: Counter[str] = Counter()
        """Fields -> rows that they were taken of."""
        self.absent = ""
        """The first message about a row without the field."""

    def record(self, row: Any) -> Any:
        """A row as {"text"[, "title", "id", "url"]}. Raises Rejected; what is no row stays."""
        if isinstance(row, str) and not self._keys:
            return TextRecord(text=row)  # of a list of texts
        if isinstance(row, TextRecord) or not isinstance(row, Mapping):
            return row
        if not self._keys and (talk := _conversation_in(row)):
            self.taken[talk] += 1
            about = {key: row[key] for key in ("id", "url") if key in row}
            return TextRecord(text=conversation(row[talk]), **about)
        keys = self._keys or self._guess(row)
        parts = [part for key in keys for part in self._texts(row, key)]
        if not parts:
            raise self._missing(row, f"`{'`, `'.join(keys)}` is missing")
        found = TextRecord(text="\n".join(part for part in parts if part.strip()))
        self.taken["+".join(keys)] += 1
        for name in TITLES:
            title = row.get(name)
            if name not in keys and title is not None:
                # What is no text is set aside by the format.
                text = found["text"].lstrip("#＃ \n")
                if not (isinstance(title, str) and text.startswith(title.strip())):
                    found["title"] = title
                break
        return found | {key: row[key] for key in ("id", "url") if key in row and key not in keys}

    def _texts(self, row: Mapping[str, Any], key: str) -> list[str]:
        values = list(_values(row, key))
        if not values:
            if self._keys and len(self._keys) > 1 and _is_optional(row, key):
                return []
            raise self._missing(row, f"`{key}` is missing")
        texts = []
        for value in values:
            if value is None and len(self._keys or "12") > 1:
                continue
            if isinstance(value, bytes):  # databases export texts so
                try:
                    value = value.decode()
                except UnicodeDecodeError:
                    raise Rejected(f"`{key}` is binary, and not UTF-8") from None
            if not isinstance(value, str):
                raise Rejected(f"`{key}` is {kind_of(value)}")
            texts.append(value)
        return texts

    def _guess(self, row: Mapping[str, Any]) -> list[str]:
        names = {str(name).strip().lower(): str(name) for name in row}
        for name in GUESSED:
            value = row[names[name]] if name in names else None
            if value not in (None, "", []) and not _is_list_of_objects(value):
                return [names[name]]
        for group in GUESSED_PAIRS:
            if group[0] in names and group[-1] in names:
                return [names[name] for name in group if row.get(names.get(name, ""))]
        present = [names[name] for name in GUESSED if name in names]
        if any(row[name] in ("", []) for name in present):
            return present[:1]  # it is empty, as it will say
        texts = [str(name) for name, value in row.items() if isinstance(value, str)]
        if len(texts) == 1 and len(row) == 1:
            return texts
        raise self._missing(row, "no field whose name says that it holds the text")

    def _missing(self, row: Mapping[str, Any], what: str) -> Rejected:
        known = list(_dotted(row))
        keys = [key[:60] for key in known][:MOST_SHOWN]
        more = ", …" if len(known) > MOST_SHOWN else ""
        message = f"{what}: the keys are {', '.join(keys)}{more}"
        self.absent = self.absent or message
        return Rejected(message)


def _conversation_in(row: Mapping[str, Any]) -> str:
    """The field of a row that holds a conversation; empty where none does, or a text is there."""
    if any(isinstance(row.get(name), str) and row[name].strip() for name in ("text", "content")):
        return ""
    for name in CONVERSATIONS:
        turns = row.get(name)
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, Mapping) and any(form <= first.keys() for form in _TURNS):
            return name
    return ""


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and isinstance(value[0], Mapping)


def _dotted(row: Mapping[Any, Any]) -> Iterator[str]:
    """The keys of a row; in the place of one with an object those inside, with dots."""
    for key, value in row.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping) and inner:
            yield from (f"{key}.{name}" for name in inner)
        else:
            yield str(key)


def _is_optional(row: Mapping[str, Any], key: str) -> bool:
    """True where only the last part of a dotted key is missing, or null."""
    head, _, _ = key.rpartition(".")
    return not head or any(True for _ in _values(row, head))


def _values(value: Any, key: str) -> Iterator[Any]:
    """Values under a dotted key; those of every object of a list on the way."""
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner, key)
    elif isinstance(value, Mapping):
        if key in value:
            found = value[key]
            yield from found if isinstance(found, list | tuple) else (found,)
            return
        head, dot, rest = key.partition(".")
        while dot:
            if head in value:
                yield from _values(value[head], rest)
                return
            more, dot, rest = rest.partition(".")
            head = f"{head}.{more}"
