"""Rows of CSV and TSV files as records {column: cell}, streamed; a damaged row costs no other.

    sep=;              Excel's own line; the sign, else the most frequent of , ; tab |
    title;text         the first row names the columns
    甲;"two
    lines"             one row of two lines
    乙;"open           a quote that is never closed: this line is bad, the next is read on its own
    丙;good

Cells are texts as they stand in the file. What a quote takes in is bounded by `MAX_ROW`. Where the
first row is a row like the others, columns are called `1`, `2`, …, and the one with sentences
`text`.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from corpus.formats.encodings import Neighbours, data_suffix, open_as_utf8
from corpus.formats.records import (
    READ_ERRORS,
    Damaged,
    RawRecord,
    decode_line,
    split_lines,
    unreadable_rest,
)
from corpus.formats.text_keys import GUESSED, GUESSED_PAIRS, TITLES

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
"""Endings, before .gz or .zst, of files that are read here."""

MAX_ROW = 4 * 1024**2
"""Bytes of a row of several lines at most."""

MAX_LINES = 20_000
"""Lines of one row at most."""

OPEN_QUOTE = "a quote is not closed"

NAMES = frozenset((*GUESSED, *TITLES, *(name for group in GUESSED_PAIRS for name in group)))
"""Names by which a first row is known for one of names."""

csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW))


def read_table(
    path: Path, neighbours: Neighbours | None = None, *, keys: Collection[str] = ()
) -> Iterator[RawRecord]:
    """The rows of a CSV or TSV file, each with the line that it begins on.

    keys: columns that are asked for: a first row with one of them is no row of cells.
    """
    try:
        with open_as_utf8(path, neighbours) as (file, disk, encoding):
            lost: dict[int, int] = {}

            def lines() -> Iterator[tuple[int, str | Damaged]]:
                for number, line in enumerate(split_lines(file), 1):
                    text, places = decode_line(line, encoding)
                    if places:
                        lost[number] = places
                    yield number, text

            rows = _Rows(lines(), is_tsv=data_suffix(path) != ".csv", keys=keys)
            for number, row in rows:
                places = sum(lost.pop(line) for line in [*lost] if number <= line <= rows.last)
                yield RawRecord(number, row, disk.tell(), encoding.name, places)
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)
    except csv.Error as error:
        yield unreadable_rest(path, ValueError(str(error)))


class _Rows:
    """Rows of numbered lines."""

    def __init__(
        self, lines: Iterator[tuple[int, str | Damaged]], *, is_tsv: bool, keys: Collection[str]
    ) -> None:
        self._lines = lines
        self._again: deque[tuple[int, str | Damaged]] = deque()
        self._is_tsv = is_tsv
        self._delimiter = "\t" if is_tsv else ""
        self._keys = keys
        self._columns: list[str] = []
        self.last = 0
        """Line that the latest row ends on."""

    def __iter__(self) -> Iterator[tuple[int, dict[str, str] | Damaged]]:
        while (line := self._next()) is not None:
            number, text = line
            self.last = number
            if isinstance(text, Damaged):
                yield number, text
                continue
            if not text.strip():
                continue
            if number == 1 and (sign := _stated_delimiter(text)):
                self._delimiter = sign
                continue
            if not self._delimiter:
                self._delimiter = _delimiter_of(text)
            cells = self._cells(number, text)
            if isinstance(cells, Damaged):
                yield number, cells
            elif not self._columns:
                self._columns = _named(cells)
                if self._is_row(cells):
                    self._columns = _numbered(cells)
                    yield number, dict(zip(self._columns, cells, strict=True))
            elif len(cells) > len(self._columns):
                reason = f"more cells than columns: {len(cells)} of {len(self._columns)}"
                yield number, Damaged(reason=reason, excerpt=text[:200])
            else:
                yield number, dict(zip(self._columns, cells, strict=False))

    def _is_row(self, cells: Sequence[str]) -> bool:
        """True if a first row is one of cells: none is a name that is known, and one a sentence."""
        names = {cell.strip().removeprefix("\ufeff") for cell in cells}
        if names & set(self._keys) or {name.lower() for name in names} & NAMES:
            return False
        if len(cells) == 1:
            return _is_sentence(cells[0]) or len(cells[0]) > 20
        return any(_is_sentence(cell) and len(cell) > 7 for cell in cells)

    def _next(self) -> tuple[int, str | Damaged] | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _cells(self, number: int, text: str) -> list[str] | Damaged:
        """Cells of the row that begins with a line, taking in the lines that its quotes do."""
        if (cells := self._parsed([text])) is not None:
            return cells
        taken: list[tuple[int, str | Damaged]] = [(number, text)]
        size, quotes = len(text), text.count('"')
        while size < MAX_ROW and len(taken) < MAX_LINES and (line := self._next()) is not None:
            taken.append(line)
            if isinstance(line[1], Damaged):
                break
            size += len(line[1])
            quotes += line[1].count('"')
            if quotes % 2 == 0:
                cells = self._parsed([str(part) for _, part in taken])
                if cells is not None and len(cells) == (len(self._columns) or len(cells)):
                    self.last = taken[-1][0]
                    return cells
                if cells is not None:
                    break  # it took in a row that is one of its own
        self._again.extendleft(reversed(taken[1:]))
        if self._is_tsv:  # most TSV files have no quoting at all
            return next(csv.reader([text], delimiter=self._delimiter, quoting=csv.QUOTE_NONE))
        return Damaged(reason=OPEN_QUOTE, excerpt=text[:200])

    def _parsed(self, lines: Sequence[str]) -> list[str] | None:
        cells = self._read(lines, strict=True)
        if any('\\"' in line for line in lines) and (
            cells is None or len(cells) != (len(self._columns) or len(cells))
        ):
            # "he said \"no\"": databases write quotes so.
            cells = self._read(lines, strict=True, escapechar="\\", doublequote=False) or cells
        if len(lines) == 1 and cells is None and lines[0].count('"') % 2 == 0:
            # "a" b,c: a quote in the middle of a cell.
            cells = self._read(lines, strict=False)
        if cells and self._columns:
            while len(cells) > len(self._columns) and not cells[-1].strip():
                cells.pop()
        return cells

    def _read(self, lines: Sequence[str], **options: object) -> list[str] | None:
        try:
            rows = list(csv.reader(iter(lines), delimiter=self._delimiter, **options))  # type: ignore[arg-type]
        except csv.Error:
            return None
        return rows[0] if len(rows) == 1 else None


def _stated_delimiter(line: str) -> str:
    """The sign of a line `sep=;`, which Excel reads and writes; empty for any other line."""
    name, _, sign = line.removeprefix("\ufeff").strip("\r\n").strip('"').partition("=")
    return sign if name.lower() == "sep" and len(sign) == 1 else ""


def _delimiter_of(header: str) -> str:
    """The sign that stands between the columns' names."""
    counts = {sign: header.count(sign) for sign in ",;\t|"}
    most = max(counts, key=lambda sign: counts[sign])
    return most if counts[most] else ","


def _named(cells: Sequence[str]) -> list[str]:
    """Names of the columns; the second of a name gets a number."""
    seen: Counter[str] = Counter()
    names = []
    for cell in cells:
        name = cell.strip().removeprefix("\ufeff")
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return names


def _numbered(cells: Sequence[str]) -> list[str]:
    """Names of columns that have none: their numbers, and `text` for the only one of sentences."""
    names = [str(number) for number in range(1, len(cells) + 1)]
    sentences = [n for n, cell in enumerate(cells) if _is_sentence(cell) or len(cells) == 1]
    if len(sentences) == 1:
        names[sentences[0]] = "text"
    return names


_SENTENCE = re.compile(r"[，。！]|\w[,.!?](?:\s|$)|(?:\S+\s+){5}")


def _is_sentence(cell: str) -> bool:
    """True for words that no column is called by; questions are, in surveys."""
    return bool(_SENTENCE.search(cell))
