"""Rows of a data set that are not of its format: refused by name, or left out and counted."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from common.errors import DataError

OnBadRow: TypeAlias = Literal["fail", "skip"]
"""fail: bad rows are refused by name; skip: they are left out, counted and listed."""

MOST_NAMED = 10
"""Bad rows that a message names; it counts the others."""


def listed_rows(rows: Sequence[str]) -> str:
    """Bad rows in one line: the first ones, and the number of the others."""
    named = "; ".join(rows[:MOST_NAMED])
    return named if len(rows) <= MOST_NAMED else f"{named}; and {len(rows) - MOST_NAMED:,} more"


def refuse_bad_rows(data_set: str, rows: Sequence[str], remedy: str) -> None:
    """Raise DataError that names bad rows, if there are any."""
    if rows:
        count = "a bad row" if len(rows) == 1 else f"{len(rows):,} bad rows"
        raise DataError(f"{data_set} has {count}: {listed_rows(rows)}. {remedy}")
