"""Values that a command line gives to a deployment's fields, before Prefect sees them.

Where a field may be empty, Prefect makes of its type a choice between it and nothing, and answers
another one with "'many' is not valid under any of the given schemas". Here such a value is refused
in words; bounds and choices are left to Prefect, whose words for them are good.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.errors import shown

Properties = Mapping[str, Mapping[str, Any]]
"""Field -> its schema, as a deployment's `parameter_openapi_schema` has them."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "integer": ("a whole number", lambda value: _is_number(value) and value % 1 == 0),
    "number": ("a number", _is_number),
    "string": ("a text", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "array": ("a list", lambda value: isinstance(value, list)),
}
"""Type of a schema -> its words, and whether a value is of it."""


def wrong_types(properties: Properties, given: Sequence[str]) -> list[str]:
    """List what is wrong with the types of values, each given as `FIELD=VALUE`; fields that are
    not known are left to Prefect."""
    return list(_wrong_types(properties, given))


def _wrong_types(properties: Properties, given: Sequence[str]) -> Iterator[str]:
    for one in given:
        field, _, text = one.partition("=")
        schema = properties.get(field, {})
        if schema.get("type") not in TYPES:
            continue
        value = _read(text)
        words, fits = TYPES[schema["type"]]
        # Null stands for an empty field, which one without a default may be.
        if fits(value) or (value is None and "default" not in schema):
            continue
        yield f"{field} = {shown(value)} must be {words}{_more(field, schema, value)}"


def _read(text: str) -> Any:
    """A value as Prefect's command line reads it: JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _more(field: str, schema: Mapping[str, Any], value: Any) -> str:
    """Bounds of a number, or how a list is written."""
    if schema["type"] == "array":
        item = value if isinstance(value, str | int | float) else "…"
        return f", for example -p '{field}={json.dumps([item], ensure_ascii=False)}'"
    if schema["type"] == "string" and not isinstance(value, str):
        return f": quote it, for example -p '{field}=\"{json.dumps(value, ensure_ascii=False)}\"'"
    bounds = [
        f"{word} {schema[key]:,}"
        for key, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
        )
        if key in schema
    ]
    return f", {', '.join(bounds)}" if bounds else ""
