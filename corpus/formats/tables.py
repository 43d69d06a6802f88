"""Rows of CSV and TSV files as records {column: cell}, streamed; a damaged row costs no other.

    title,text         the first row names the columns
    甲,"two
    lines"             one row of two lines
    乙,"open           a quote that is never closed: this line is bad, the next is read on its own
    丙,good

Cells are texts as they stand in the file. What a quote takes in is bounded by `MAX_ROW`.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator, Sequence
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

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
"""Endings, before .gz or .zst, of files that are read here."""

MAX_ROW = 4 * 1024**2
"""Bytes of a row of several lines at most."""

MAX_LINES = 20_000
"""Lines of one row at most."""

OPEN_QUOTE = "a quote is not closed"

csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW))


def read_table(path: Path, neighbours: Neighbours | None = None) -> Iterator[RawRecord]:
    """The rows of a CSV or TSV file below its first, each with the line that it begins on."""
    try:
        with open_as_utf8(path, neighbours) as (file, disk, encoding):
            lines = enumerate((decode_line(line, encoding) for line in split_lines(file)), 1)
            for number, row in _Rows(lines, is_tsv=data_suffix(path) != ".csv"):
                yield RawRecord(number, row, disk.tell(), encoding.name)
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)
    except csv.Error as error:
        yield unreadable_rest(path, ValueError(str(error)))


class _Rows:
    """Rows of numbered lines."""

    def __init__(self, lines: Iterator[tuple[int, str | Damaged]], *, is_tsv: bool) -> None:
        self._lines = lines
        self._again: deque[tuple[int, str | Damaged]] = deque()
        self._is_tsv = is_tsv
        self._delimiter = "\t" if is_tsv else ""
        self._columns: list[str] = []

    def __iter__(self) -> Iterator[tuple[int, dict[str, str] | Damaged]]:
        while (line := self._next()) is not None:
            number, text = line
            if isinstance(text, Damaged):
                yield number, text
                continue
            if not text.strip():
                continue
            if not self._delimiter:
                self._delimiter = _delimiter_of(text)
            cells = self._cells(number, text)
            if isinstance(cells, Damaged):
                yield number, cells
            elif not self._columns:
                self._columns = _named(cells)
                if len(cells) == 1 and _is_sentence(cells[0]):
                    # One column without a name: its first cell is a text like the others.
                    self._columns = ["text"]
                    yield number, {"text": cells[0]}
            elif len(cells) > len(self._columns):
                reason = f"more cells than columns: {len(cells)} of {len(self._columns)}"
                yield number, Damaged(reason=reason, excerpt=text[:200])
            else:
                yield number, dict(zip(self._columns, cells, strict=False))

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
                    return cells
                if cells is not None:
                    break  # it took in a row that is one of its own
        self._again.extendleft(reversed(taken[1:]))
        if self._is_tsv:  # most TSV files have no quoting at all
            return next(csv.reader([text], delimiter=self._delimiter, quoting=csv.QUOTE_NONE))
        return Damaged(reason=OPEN_QUOTE, excerpt=text[:200])

    def _parsed(self, lines: Sequence[str]) -> list[str] | None:
        try:
            rows = list(csv.reader(iter(lines), delimiter=self._delimiter, strict=True))
        except csv.Error:
            try:
                if len(lines) == 1 and lines[0].count('"') % 2 == 0:
                    # "a" b,c: a quote in the middle of a cell.
                    return next(csv.reader(iter(lines), delimiter=self._delimiter), None)
            except csv.Error:
                pass
            return None
        return rows[0] if len(rows) == 1 else None


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


def _is_sentence(cell: str) -> bool:
    return len(cell) > 20 or any(sign in cell for sign in "，。！？,.!?")
