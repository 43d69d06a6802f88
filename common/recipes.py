"""YAML into typed configuration. The only module that reads YAML.

    deployments/smoke.yaml ──read_yaml──▶ dict ──build──▶ frozen dataclass, or one ConfigError that
         ▲ base:                                          names file, key, value and remedy
    the file named by `base:`

A file may begin with `base: other.yaml` (relative to itself) and state only its differences:
mappings are merged key by key, all else is replaced: a `model` of another `model_type`, too, since
sizes mean nothing to another architecture. Unknown keys are errors everywhere.
"""

import copy
import dataclasses
import functools
import itertools
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from common.config import (
    dataclass_in,
    did_you_mean,
    field_types,
    raise_all,
    refusal,
    renamed_keys,
    renamed_value,
    shown_place,
)
from common.errors import MAX_SHOWN, ConfigError, DataError, SteelError, shown
from common.names import Name, is_name
from common.paths import RECIPES, absolute, display
from common.ranges import MinLen
from common.reading.files import read_text
from common.reading.types import key_type, miscast, type_at
from common.reading.yaml_text import MAX_DEPTH, parse_yaml
from common.redaction import learn, redact

T = TypeVar("T")

Keys: TypeAlias = "tuple[str | int, ...]"
"""Keys of mappings and positions in lists that lead to a value."""

DEFAULT_MODEL_TYPE = "steel"
"""Architecture of a `model` that names none (SteelArchitecture.model_type)."""
MAX_BASES = 20
"""Files that inherit from each other."""
MAX_NEIGHBOURS = 40
"""Names of files in a message."""


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
    if len(seen) > MAX_BASES:
        raise ConfigError(f"{display(seen[0])}: more than {MAX_BASES} files inherit by `base`")
    try:
        text = read_text(path)
    except DataError as error:
        raise ConfigError(f"{error}{_neighbours(path, error)}") from error
    try:
        data = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{display(path)} is not valid YAML: {_why(error)}") from error
    if not isinstance(data, dict):
        kind = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{display(path)} must hold a mapping, not {kind}")
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str) or not base:
        raise ConfigError(refusal(f"{display(path)}: base", base, Annotated[str, MinLen(1)]))
    return merge(_read_yaml(absolute(base, path.parent), (*seen, path)), data)


def _neighbours(path: Path, error: DataError) -> str:
    """Names of the files that are there, beside one that is not."""
    if not isinstance(error.__cause__, FileNotFoundError):
        return ""
    siblings = sorted(p.stem for p in path.parent.glob("*.yaml"))
    more = ", …" if len(siblings) > MAX_NEIGHBOURS else ""
    return f". There are: {', '.join(siblings[:MAX_NEIGHBOURS])}{more}." if siblings else ""


def _why(error: yaml.YAMLError) -> str:
    text = str(error).replace('in "<unicode string>", ', "at ")
    return text if len(text) <= 2000 else f"{text[:1000]}…{text[-1000:]}"


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `difference` laid over it; nested mappings are merged, the rest replaced.

    None takes a mapping or list away. A `model` of another architecture replaces the base's.
    """
    result = dict(base)
    for key, value in difference.items():
        old = result.get(key)
        if value is None and isinstance(old, Mapping | list):
            del result[key]
            continue
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        if both and not (key == "model" and _other_architecture(old, value)):  # type: ignore[arg-type]
            value = merge(old, value)  # type: ignore[arg-type]
        result[key] = value
    return result


def _other_architecture(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    old_kind = old.get("model_type", DEFAULT_MODEL_TYPE)
    return bool(new.get("model_type", old_kind) != old_kind)


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Lay `section.key=value` strings over a mapping; values are read as YAML.

    In their order, but `model_type` first: the others are about the architecture that it names.
    """
    for override in sorted(overrides, key=lambda text: "model_type" not in text):
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            raise ConfigError(f"--set {shown(override)} must look like section.key=value")
        try:
            value: Any = _parse(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--set {shown(override)}: the value is not valid YAML: {_why(error)}"
            ) from error
        for key in reversed(keys):
            value = {key: value}
        data = merge(data, value)
    return data


def _parse(text: str) -> Any:
    learn(text)
    try:
        value = parse_yaml(text)
        learn(*_texts(value))  # without the escapes of YAML
        return value
    except yaml.MarkedYAMLError as error:
        if redact(text) != text:
            # YAML quotes a piece of the line, which may begin within a password.
            for mark in (error.context_mark, error.problem_mark):
                if isinstance(mark, yaml.Mark):  # the marks of libyaml hold no text
                    mark.buffer = None
        raise


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and "://" in value:
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def recipe_path(kind: str, name: str) -> Path:
    """Path of the recipe `name` of a kind (corpora, clean, mixtures, …).

    Raises ConfigError for what is no name: it would be another file than a recipe.
    """
    if not is_name(name):
        raise ConfigError(refusal(f"data_recipes/{kind}: name", name, Name))
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
    parsed = parse(cls, data)
    raise_all(parsed.problems, where)
    assert parsed.value is not None
    return parsed.value


@dataclass(frozen=True, kw_only=True)
class Parsed(Generic[T]):
    """A mapping as a dataclass, as far as that goes."""

    value: T | None
    """The dataclass, with its default wherever a value was refused; None where there is none."""
    problems: list[SteelError]
    """Each key or value that was refused."""
    wrong: frozenset[str]
    """Dotted places of the refused ones."""


def parse(cls: type[T], data: Mapping[str, Any]) -> Parsed[T]:
    """Validate a mapping as the dataclass `cls`, and go on after what is wrong.

    Keys, types and declared ranges are validated; `Config.check` is not called.
    """
    plain = copy.deepcopy(dict(data))
    messages = dict.fromkeys(_rename(cls, plain))
    wrong: set[str] = set()
    # All are explained before any is removed: of a list, all entries go with one.
    places = list(itertools.islice(miscast(cls, plain, ()), MAX_PLACES))
    messages |= dict.fromkeys(_explain(cls, plain, place, "type") for place in places)
    for place in places:
        wrong |= {".".join(place), ".".join(_remove(plain, place))}
    value: T | None = None
    for _ in range(MAX_ATTEMPTS):
        try:
            adapter = _adapter(cls)  # type: ignore[arg-type] # classes are hashable
            value = adapter.validate_python(plain)
            break
        except ValidationError as error:
            problems = itertools.islice(error.errors(include_url=False), MAX_PLACES)
            found = [(_place(plain, p), _kind(p)) for p in problems]
        messages |= dict.fromkeys(
            _explain(cls, plain, place, kind)
            for place, kind in found
            if not (kind.startswith("missing") and ".".join(place) in wrong)  # it was refused
        )
        for place, _ in found:
            wrong |= {".".join(place), ".".join(_remove(plain, place))}
    return Parsed(value=value, problems=[ConfigError(m) for m in messages], wrong=frozenset(wrong))


MAX_PLACES = 1000
"""Wrong values that are looked at."""

MAX_ATTEMPTS = 3
"""A mapping is validated again without what was refused, to find what is wrong beside it."""


@functools.cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    _prepare(cls, set())
    return TypeAdapter(cls)


def _prepare(hint: Any, seen: set[Any]) -> None:
    """Make pydantic refuse unknown keys, infinity and NaN in a dataclass and all inside it.

    Done from outside because the dataclasses of `model/` must not depend on pydantic.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if hint in seen:
            return
        seen.add(hint)
        config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
        hint.__pydantic_config__ = config  # type: ignore[attr-defined]
        for kind in field_types(hint).values():
            _prepare(kind, seen)
    else:
        for argument in typing.get_args(hint):
            if not isinstance(argument, str):
                _prepare(argument, seen)


def _rename(cls: type[Any], data: dict[str, Any]) -> Iterator[str]:
    """Move values from keys that were renamed to today's; yield what to write instead."""
    for keys, value in list(_leaves(data)):
        today = _today(cls, keys)
        if today != keys:
            value = renamed_value(type_at(cls, tuple(map(str, keys[:-1]))), keys[-1], value)
            yield _new_line(".".join(map(str, keys)), ".".join(map(str, today)), value)
            _take(data, keys)
            _put(data, today, value)


def _today(hint: Any, keys: Keys) -> Keys:
    """The keys by which a value is known today, from those that a file has."""
    if not keys:
        return ()
    group = dataclass_in(hint)
    new, rest = keys[:1], keys[1:]
    for old, today in (renamed_keys(group) if group is not None else {}).items():
        size = old.count(".") + 1
        if ".".join(map(str, keys[:size])) == old:
            if not today:
                return _today(hint, keys[size:])
            new, rest = tuple(today.split(".")), keys[size:]
            break
    return (*new, *_today(type_at(hint, tuple(map(str, new))), rest))


def _new_line(old: str, new: str, value: Any) -> str:
    group, _, key = new.rpartition(".")
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    within = f" under `{group}`" if group else ""
    return redact(f"{old!r} is now {new!r}: write `{key}: {text}`{within}, or --set {new}={text}")


def _leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """(keys, value) of everything in nested mappings and lists."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        pairs = enumerate(value)
    if not pairs or not value:
        yield keys, value
    else:
        for key, entry in pairs:
            yield from _leaves(entry, (*keys, key))


def _take(data: Any, keys: Keys) -> None:
    """Remove a value, and the mappings around it that have no other."""
    first, *rest = keys
    if rest:
        _take(data[first], tuple(rest))
    if isinstance(data, dict) and (not rest or data[first] == {}):
        del data[first]


def _put(data: Any, keys: Keys, value: Any) -> None:
    """Place a value where nothing is yet."""
    first, *rest = keys
    if not rest:
        if isinstance(data, dict):
            data.setdefault(first, value)
    elif isinstance(data, dict):
        _put(data.setdefault(first, {}), tuple(rest), value)
    elif isinstance(data, list):
        _put(data[int(first)], tuple(rest), value)


def _place(data: Any, problem: Any) -> tuple[str, ...]:
    """Keys that lead to a problem of pydantic's, without its names for members of unions."""
    place: list[str] = []
    for number, part in enumerate(problem["loc"], start=1):
        in_list = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            data = data[part]
        elif number < len(problem["loc"]) or not problem["type"].startswith("missing"):
            continue
        place.append(str(part))
    return tuple(place)


def _kind(problem: Any) -> str:
    """Kind of a problem of pydantic's; `key` where the key of a mapping is refused."""
    return "key" if problem["loc"] and problem["loc"][-1] == "[key]" else str(problem["type"])


def _remove(data: dict[str, Any], place: tuple[str, ...]) -> tuple[str, ...]:
    """Take the value at a place out; of a list all. Returns the place of what was taken out."""
    for number, key in enumerate(place[:-1], start=1):
        if not isinstance(data.get(key), dict):
            data.pop(key, None)
            return place[:number]
        data = data[key]
    if place:
        data.pop(place[-1], None)
    return place


def _explain(cls: type[Any], data: Any, place: tuple[str, ...], kind: str) -> str:
    """One problem of pydantic's as a sentence for a person."""
    dotted = shown_place(".".join(place)) or "the whole file"
    match kind:
        case "unexpected_keyword_argument" | "extra_forbidden":
            group = dataclass_in(type_at(cls, place[:-1]))
            known = list(field_types(group)) if group else []
            hint = did_you_mean(place[-1], known).strip()
            return f"unknown key {dotted!r} {hint or '(known keys: ' + ', '.join(known) + ')'}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"key {dotted!r} is required"
        case "key":
            hint = key_type(type_at(cls, place[:-1]))
            return redact(refusal(f"{'.'.join(place[:-1]) or 'a key'}: key", place[-1], hint))
    value: Any = data
    for key in place:
        value = value[int(key) if isinstance(value, list | tuple) else key]
    return redact(refusal(dotted, value, type_at(cls, place)))
