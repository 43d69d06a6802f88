"""Texts in rows that others made: a value that belongs to text is a text, or the row is bad.

    {"answer": "nan"}  ──▶ "nan"              {"answer": NaN}   ──▶ BadField("answer", "NaN")
    {"answer": "1.50"} ──▶ "1.50"             {"answer": 1.50}  ──▶ BadField("answer", "a number")

Nothing is turned into text: NaN would become the word "nan", null "None", 1e5 "100000.0".
"""

import json
import math
from collections.abc import Mapping
from typing import Any

EXCERPT = 200
"""Characters of a bad row that are shown."""


class BadField(Exception):
    """A value where a text belongs; says field and what was found."""

    def __init__(self, field: str, found: str) -> None:
        super().__init__(f"`{field}` {found}" if found == "is missing" else f"`{field}` is {found}")
        self.field, self.found = field, found


MISSING = "is missing"


def text_of(value: Any, field: str) -> str:
    """A value that must be a text. Raises BadField, also for what has no UTF-8."""
    if not isinstance(value, str):
        raise BadField(field, kind_of(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadField(field, "a text with half of a surrogate pair") from None
    return value


def text_in(row: Mapping[str, Any], field: str, *, optional: bool = False) -> str:
    """The text in a field. Raises BadField.

    optional: the field may be absent or null, which is an empty text.
    """
    value = row.get(field)
    if value is None and optional:
        return ""
    if field not in row:
        raise BadField(field, MISSING)
    return text_of(value, field)


def kind_of(value: Any) -> str:
    """Words for a value that is no text: `null`, `NaN`, `a number`, `a list`, …"""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "a boolean",
        type(None): "null",
        bytes: "binary",
    }
    return names.get(type(value), type(value).__name__)


def excerpt_of(value: Any) -> str:
    """Beginning of a row for people; never fails, whatever the row holds."""
    try:
        text = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
        )
    except (ValueError, TypeError, RecursionError):
        return f"{type(value).__name__} that cannot be shown"
    return text[:EXCERPT].encode("utf-8", "replace").decode()
