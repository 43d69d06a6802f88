"""Settings groups: marked fields, refused values, and typed values read from JSON."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from common.errors import ConfigError

T = TypeVar("T")

NOT_IN_KEY = {"in_key": False}
"""Metadata of a field that changes how a run works, not what comes out of it: a finished stage
serves whatever the field says (tasks/core/manifest.py)."""


def require(settings: Any, place: str, name: str, holds: bool, expected: str) -> None:
    """Raise ConfigError unless the field's value `holds`; it names value and place.

    place: the stage and the group, as in "pretrain: checkpoints."; expected: what would do.
    """
    if not holds:
        raise ConfigError(f"{place}{name} = {getattr(settings, name)!r}; it must be {expected}")


def from_json(cls: type[T], path: Path) -> T:
    """Read a (nested) config dataclass from a JSON file. Raises ConfigError as `from_plain`."""
    return from_plain(cls, json.loads(path.read_text(encoding="utf-8")), str(path))


def from_plain(cls: type[T], values: Any, place: str) -> T:
    """Build a (nested) config dataclass from JSON values.

    The caller's side validates types with pydantic; here only keys are checked, because model/
    has to run where pydantic is not installed. Raises ConfigError naming the key and the place.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: expected an object with the fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = [f.name for f in dataclasses.fields(typing.cast("type[Any]", cls))]
    if unknown := sorted(values.keys() - set(fields)):
        known = ", ".join(fields)
        raise ConfigError(f"{place}: unknown key {unknown[0]!r}; the keys are {known}")
    built = {name: _typed(hints[name], v, f"{place}: {name}") for name, v in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"{place}: {error}") from error


def _typed(kind: Any, value: Any, place: str) -> Any:
    """A JSON value as the type of its field: a dataclass, a list of them, or a tuple."""
    if dataclasses.is_dataclass(kind) and not isinstance(kind, types.UnionType):
        return from_plain(typing.cast("type[Any]", kind), value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_typed(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    return tuple(value) if origin is tuple else value
