"""Texts of any kind of data file, for a vocabulary, which needs nothing but the words.

.jsonl written by `clean`  ──▶ "text" of every line
raw data sets of any shape ──▶ every string in every row, however deep it is nested
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import read_json_lines
from common.paths import display
from corpus.chats.rows import SUFFIXES, LocatedRow, read_rows
from corpus.sources.source import is_hidden

Progress = Callable[[int], None]


class Texts(Iterable[str]):
    """Texts of many files, which can be iterated repeatedly and are never in memory together.

    Args:
        cleaned: files of {"text": …} lines, written by `clean`.
        raw: folders of data sets in their native formats; files of other kinds (README, …) are
            passed over, and so are rows that cannot be read.
        progress: called with the bytes of each file that has been read.

    Raises:
        DataError: while iterating: a cleaned text that cannot be encoded, or a file that cannot be
            read to its end.
    """

    def __init__(
        self, cleaned: Sequence[Path], raw: Sequence[Path], progress: Progress = lambda _: None
    ) -> None:
        self.cleaned = cleaned
        self.raw = [(folder, data_files(folder)) for folder in raw]
        self.progress = progress

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [*self.cleaned, *(path for _, paths in self.raw for path in paths)]

    def __iter__(self) -> Iterator[str]:
        for path in self.cleaned:
            for number, row in enumerate(read_json_lines(path), start=1):
                check_encodable(row["text"], f"{display(path)}, line {number}")
                yield row["text"]
            self.progress(path.stat().st_size)
        for folder, paths in self.raw:
            for path in paths:
                for item in read_rows(folder, [path]):
                    if isinstance(item, LocatedRow):
                        # Nothing is written from these: half a surrogate pair may go.
                        for text in strings(item.row):
                            yield text.encode("utf-8", "replace").decode()
                self.progress(path.stat().st_size)


def data_files(folder: Path) -> list[Path]:
    """Files below a folder that hold rows, sorted; hidden ones are left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and (path.name.removesuffix(".gz").endswith(SUFFIXES))
        and not is_hidden(str(path.relative_to(folder)))
    ]


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value that is not empty; keys are left out."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        for inner in value:
            yield from strings(inner)


def check_encodable(text: str, where: str) -> None:
    """Refuse a text that has no UTF-8: half of a surrogate pair, as JSON can spell it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: the text has half of a surrogate pair at character {error.start}, which no "
            "tokenizer can read. Clean the source with fix_unicode_mapper"
        ) from None
