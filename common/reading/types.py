"""Types of values in nested mappings: the declared one at a place, and values of another kind."""

import typing
from collections.abc import Iterator
from typing import Any

from common.config import dataclass_in, field_types
from common.ranges import members, unwrapped


def key_type(hint: Any) -> Any:
    """Type of the keys of a mapping; text where it has none."""
    entries = [typing.get_args(unwrapped(member)[0]) for member in members(hint)]
    return next((arguments[0] for arguments in entries if len(arguments) == 2), str)


def type_at(hint: Any, place: tuple[str, ...]) -> Any:
    """Type of the value at a place below a type; Any where it has none."""
    for key in place:
        group = dataclass_in(hint)
        if group is not None:
            hint = field_types(group).get(key, Any)
            continue
        entries = [typing.get_args(unwrapped(member)[0]) for member in members(hint)]
        found = (a for arguments in entries for a in reversed(arguments) if a is not Ellipsis)
        hint = next(found, Any)
    return hint


def miscast(hint: Any, value: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the places of values that pydantic would turn into another type: "3", true for 1.

    A number like 1e9 or 5.0 becomes a whole one, in place, where only a whole one will do.
    """
    group = dataclass_in(hint)
    if not isinstance(value, dict | list):
        if not _has_kind(value, hint):
            yield place
        return
    if isinstance(value, dict) and group is not None:
        types = field_types(group)
        entries = [(key, types[key]) for key in value if key in types]
    else:
        entry = type_at(hint, (*place, "0")[-1:]) if group is None else Any
        keys = list(value) if isinstance(value, dict) else range(len(value))
        entries = [(key, entry) for key in keys]
    for key, entry in entries:
        found = value[key]
        whole = isinstance(found, float) and found.is_integer()
        if whole and not _has_kind(found, entry) and _has_kind(0, entry):
            value[key] = int(found)
        else:
            yield from miscast(entry, found, (*place, str(key)))


def _has_kind(value: Any, hint: Any) -> bool:
    """Return True if one of a type's alternatives is of a scalar's kind, whatever its range."""
    for member in members(hint):
        kind, _ = unwrapped(member)
        if len(members(kind)) > 1:
            if _has_kind(value, kind):
                return True
        elif typing.get_origin(kind) is typing.Literal:
            if any(type(value) is type(choice) for choice in typing.get_args(kind)):
                return True
        elif kind is Any or not isinstance(kind, type):
            if kind is Any:
                return True
        elif (kind is float and type(value) is int) or type(value) is kind:
            return True
    return value is None and type(None) in members(hint)
