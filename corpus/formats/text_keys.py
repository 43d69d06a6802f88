"""The text of a row that has no format of its own: by the recipe's `text_key`, or by a guess.

text_key: body                     the field `body`
text_key: data.article.text        a field inside of others; a list of objects gives each one's
text_key: [question, answer]       several, joined by line ends
(none)                             `text`, `content`, `正文`, … — the first that is there
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corpus.formats.record_formats import Rejected
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


class TextRecord(dict[str, Any]):
    """A record {"text", …} whose text is known already, whatever `text_key` says."""


class TextKeys:
    """The fields that are taken of the rows of a corpus; remembers what it took."""

    def __init__(self, text_key: str | Sequence[str] = "") -> None:
        self._keys = [text_key] if isinstance(text_key, str) else list(text_key)
        self._keys = [key for key in self._keys if key]
        self.taken: Counter[str] = Counter()
        """Fields -> rows that they were taken of."""
        self.absent = ""
        """The first message about a row without the field."""

    def record(self, row: Any) -> Any:
        """A row as {"text"[, "title", "id", "url"]}. Raises Rejected; what is no row stays."""
        if isinstance(row, TextRecord) or not isinstance(row, Mapping):
            return row
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
            if not isinstance(value, str):
                raise Rejected(f"`{key}` is {kind_of(value)}")
            texts.append(value)
        return texts

    def _guess(self, row: Mapping[str, Any]) -> list[str]:
        names = {str(name).strip().lower(): str(name) for name in row}
        for name in GUESSED:
            if name in names and row[names[name]] is not None:
                return [names[name]]
        for group in GUESSED_PAIRS:
            if group[0] in names and group[-1] in names:
                return [names[name] for name in group if row.get(names.get(name, ""))]
        texts = [str(name) for name, value in row.items() if isinstance(value, str)]
        if len(texts) == 1 and len(row) == 1:
            return texts
        raise self._missing(row, "no field whose name says that it holds the text")

    def _missing(self, row: Mapping[str, Any], what: str) -> Rejected:
        keys = [str(key)[:60] for key in row][:MOST_SHOWN]
        more = ", …" if len(row) > MOST_SHOWN else ""
        message = f"{what}: the keys are {', '.join(keys)}{more}"
        self.absent = self.absent or message
        return Rejected(message)


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
