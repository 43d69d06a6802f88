"""Rows of a CSV file, where a damaged row costs no other.

    1,"two
    lines",a,b,A      one row of two lines
    2,"open,a,b,B     a quote that is not closed: named, and reading goes on in the next line,
    3,"q",a,b,C       though by the letter of CSV its field reaches to the next quote

Cells are texts as they stand in the file: "None", "NA", "007" and "1e5" are no values here.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

OPEN_QUOTE = "a quote is not closed: its field takes in the next row"


class CsvRow(NamedTuple):
    """A row, or a line that is none."""

    line: int
    """The line, from 1, in which it begins."""
    cells: list[str]
    """Its cells; empty for a blank line."""
    reason: str
    """Defect in a few words; empty for a sound row."""


def csv_rows(text: str, is_whole: Callable[[Sequence[str]], bool]) -> Iterator[CsvRow]:
    """The rows of a file.

    is_whole: says of cells if they look like a whole row of the file; such a row inside a field
    shows that a quote is not closed.
    """
    lines = list(io.StringIO(text, newline=""))
    begin = 0
    while begin < len(lines):
        reader = csv.reader(iter(lines[begin:]), strict=True)
        first, reason = begin, ""
        while not reason:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells, reason = [], f"not valid CSV ({error}): perhaps a quote is not closed"
            end = first + reader.line_num
            several = end - begin > 1 and not reason
            if several and _takes_in_a_row(cells, lines[begin:end], is_whole):
                reason = OPEN_QUOTE
            yield CsvRow(begin + 1, cells, reason)
            begin = begin + 1 if reason else end


def _takes_in_a_row(
    cells: list[str], lines: Sequence[str], is_whole: Callable[[Sequence[str]], bool]
) -> bool:
    """Return True for a row of several lines that are rows of their own.

    One that is whole itself is believed, and may hold lines like rows, unless its first and its
    last line are both rows: so it looks where one open quote ends at another.
    """
    begins = any(
        is_whole((*cells[:place], *rest))
        for place, cell in enumerate(cells)
        if len(cell.splitlines()) > 1 and len(rest := _cells(cell.splitlines()[0])) > 1
    )
    if is_whole(cells):
        return begins and is_whole(_cells(lines[-1]))
    inner = [line for line in lines[1:] if not line.count('"') % 2]
    return begins or any(map(is_whole, map(_cells, inner)))


def _cells(line: str) -> Sequence[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []
