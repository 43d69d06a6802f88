"""YAML into typed configuration. The only module that reads YAML.

    deployments/smoke.yaml ──read_yaml──▶ dict ──build──▶ frozen dataclass, or one ConfigError that
         ▲ base:                                          names file, key, value and remedy
    the file named by `base:`

A file may begin with `base: other.yaml` (relative to itself) and state only its differences:
mappings are merged key by key, everything else is replaced. Unknown keys are errors everywhere.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from common.errors import ConfigError
from common.paths import RECIPES, display
from common.urls import redact

T = TypeVar("T")


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of silently keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with its `base` merged in.

    Raises ConfigError when the file is missing, isn't YAML, isn't a mapping, or inherits in a
    circle.
    """
    return _read_yaml(path, ())


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        chain = " -> ".join(display(p) for p in (*seen, path))
        raise ConfigError(f"`base` goes in a circle: {chain}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = sorted(p.stem for p in path.parent.glob("*.yaml"))
        there = f" There are: {', '.join(siblings)}." if siblings else ""
        raise ConfigError(f"{display(path)} does not exist.{there}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{display(path)} is not UTF-8: {error}") from error
    try:
        data = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{display(path)} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{display(path)} must hold a mapping, not {type(data).__name__}")
    base = data.pop("base", None)
    if base is None:
        return data
    return merge(_read_yaml((path.parent / str(base)).resolve(), (*seen, path)), data)


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `difference` laid over it; nested mappings are merged, the rest replaced."""
    result = dict(base)
    for key, value in difference.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Lay `section.key=value` strings over a mapping; values are read as YAML."""
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {override!r} must look like section.key=value")
        try:
            value: Any = _parse(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--set {override!r}: the value is not valid YAML: {error}"
            ) from error
        for key in reversed(keys):
            value = {key: value}
        data = merge(data, value)
    return data


def _parse(text: str) -> Any:
    # A SafeLoader with one more check, so as safe as safe_load.
    return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506


def recipe_path(kind: str, name: str) -> Path:
    """Where the recipe `name` of a kind (corpora, clean, mixtures, …) stands."""
    return RECIPES / kind / f"{name}.yaml"


def load_recipe(cls: type[T], kind: str, name: str) -> T:
    """The recipe `data_recipes/<kind>/<name>.yaml` as a `cls`. Raises ConfigError."""
    path = recipe_path(kind, name)
    return build(cls, read_yaml(path), where=display(path))


def load_config(path: Path, cls: type[T], overrides: Iterable[str] = ()) -> T:
    """A YAML file with `--set` overrides laid over it, as a `cls`. Raises ConfigError."""
    return build(cls, apply_overrides(read_yaml(path), overrides), where=display(path))


def build(cls: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """Validate a mapping as the dataclass `cls`.

    Raises ConfigError that lists every wrong key with its place, value and remedy.
    """
    _forbid_unknown_keys(cls, set())
    try:
        return TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as error:
        lines = [_explain(cls, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from error


def _forbid_unknown_keys(tp: Any, seen: set[Any]) -> None:
    """Make pydantic refuse unknown keys in a dataclass and in every dataclass inside it.

    Done from outside because the dataclasses of `model/` must not depend on pydantic.
    """
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        if tp in seen:
            return
        seen.add(tp)
        config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
        tp.__pydantic_config__ = config  # type: ignore[attr-defined]
        for hint in typing.get_type_hints(tp).values():
            _forbid_unknown_keys(hint, seen)
    else:
        for argument in typing.get_args(tp):
            if not isinstance(argument, str):
                _forbid_unknown_keys(argument, seen)


def _explain(cls: Any, problem: Any) -> str:
    """One pydantic problem as a sentence for a person."""
    # Union members show up in the location as type names; a user only knows keys.
    location = [str(p) for p in problem["loc"] if not str(p)[:1].isupper()]
    dotted = ".".join(location) or "the whole file"
    match problem["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = _fields_at(cls, location[:-1])
            close = difflib.get_close_matches(location[-1], known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            return f"unknown key {dotted!r} ({hint})"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"key {dotted!r} is required"
        case _:
            return redact(f"{dotted!r}: {problem['msg']} (got {problem['input']!r})")


def _fields_at(cls: Any, location: list[str]) -> list[str]:
    """Names of the fields of the dataclass that stands at a dotted place below `cls`."""
    for key in location:
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            break
        cls = typing.get_type_hints(cls).get(key)
        members = typing.get_args(cls) if isinstance(cls, types.UnionType) else (cls,)
        cls = next((m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)), cls)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return []
