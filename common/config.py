"""The one kind of configuration: frozen dataclasses that declare their ranges (docs/adr/0018).

    Config         a group of settings: declared ranges, `check()` for what several fields decide
    └── StageConfig  of one stage of the pipeline: what its key, its disk and its result depend on

    YAML ──common.recipes, pydantic──▶ config ──problems()──▶ errors: all that is wrong
    JSON ──from_json, no pydantic─────▶

A dataclass is frozen and keyword-only, and a docstring stands under each field. Ranges are part of
a field's type (`workers: Annotated[int, Ge(1)] = 4`, common/ranges.py). A key that was renamed
goes into `RENAMED` of the class that has it, so that the old name is refused with the new one.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from common.errors import ConfigError, SteelError, shown
from common.ranges import Rule, exceeded, expected, fits, members, unwrapped
from common.reading.files import read_json_object

T = TypeVar("T")

MAX_PLACE = 300
"""Characters of a dotted key in a message."""
MAX_WORD = 100
"""Characters of a word that may be a misspelt one."""
MAX_GROUP = 120
"""Characters of a list or mapping in a message; of a longer one its size is shown."""
MAX_PROBLEMS = 100
"""Problems that one message lists."""

NOT_IN_KEY = {"in_key": False}
"""Metadata of a field that changes how a run works, not what comes out of it: a finished stage
serves whatever the field says (tasks/core/manifest.py)."""

UNLESS_DEFAULT = "unless default"
IN_KEY_UNLESS_DEFAULT = {"in_key": UNLESS_DEFAULT}
"""Metadata of a field that came after its group had finished stages: at its default, where the
result is what it was before, keys are as they were."""

INCOMPLETE = {"complete": False}
"""Metadata of a field whose config gets a value later that it cannot be without: its ranges are
validated, its `check` is not called."""


class Config:
    """A group of settings. Subclasses are dataclasses, frozen and keyword-only."""

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Former key -> today's, each relative to this group and dotted where it was or is in another
    group below; "" where the keys of a former group stand in this one now. A class adds to what its
    bases say."""

    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Former key -> former value -> today's, where values were renamed with their key."""

    def check(self) -> Iterator[SteelError]:
        """Yield an error for each contradiction between fields.

        Called only if every value is within its declared range. A message begins with the field
        and says what to do; the caller adds the place ("pretrain.checkpoints.keep_every = …").
        """
        return iter(())


class StageConfig(Config):
    """All that one stage of the pipeline is told, beside its inputs."""

    def bytes_needed(self) -> int:
        """Bytes of disk that the stage takes, as far as its config tells; 0 if it does not."""
        return 0

    def recipe_files(self) -> list[Path]:
        """Files of data_recipes/ and code whose content the result depends on: part of the key."""
        return []

    def input_recipe_files(self, inputs: Mapping[str, Any]) -> list[Path]:
        """Files of data_recipes/ that say how these inputs are read: part of the key.

        inputs: of the stage, by name; several of one kind are a mapping, by data set.
        """
        return []

    def fingerprint(self) -> Any:
        """JSON value of whatever else outside of the config the result depends on: part of the
        key."""
        return None

    def check_finished(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Raise ConfigError if a finished stage of this key is not what the config asks for."""


def is_in_key(config: Any, field: "dataclasses.Field[Any]") -> bool:
    """Return True if a stage's key depends on a field as this config has it."""
    rule = field.metadata.get("in_key", True)
    if rule != UNLESS_DEFAULT:
        return bool(rule)
    missing = dataclasses.MISSING
    default = field.default if field.default_factory is missing else field.default_factory()
    return bool(getattr(config, field.name) != default)


def renamed_keys(cls: type[Any]) -> dict[str, str]:
    """`RENAMED` of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base).get("RENAMED", {})
    return found


def renamed_value(hint: Any, key: Any, value: Any) -> Any:
    """The value of a former key of a group, as it is written today."""
    values = getattr(dataclass_in(hint), "RENAMED_VALUES", {}).get(key, {})
    return values.get(value, value) if isinstance(value, str) else value


def field_types(cls: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass with their types, declared ranges included."""
    return dict(_field_types(cls))  # type: ignore[arg-type] # classes are hashable


@functools.cache
def _field_types(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass that a field holds, possibly beside None or other alternatives."""
    for member in members(hint):
        kind, _ = unwrapped(member)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return kind
    return None


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────


def problems(
    config: Any, place: str = "", *, known_wrong: Collection[str] = ()
) -> list[SteelError]:
    """Find all that is wrong with a config: values out of range, and contradictions.

    place: dotted key of the config, put before each message.
    known_wrong: dotted keys that were refused before and have their default instead: what depends
    on them is not judged.
    """
    found: list[SteelError] = []
    _examine(config, type(config), place, set(known_wrong), found)
    return found


def validate(config: Any, place: str = "") -> None:
    """Raise one error that lists all that is wrong with a config; nothing if it is sound."""
    raise_all(problems(config, place))


def raise_all(found: Iterable[SteelError], where: str = "") -> None:
    """Raise one error for all of these; none if there are none.

    where: the file, put before the messages. A single error keeps its class.
    """
    unique = list({str(error): error for error in found}.values())
    start = f"{where}: " if where else ""
    if len(unique) == 1:
        raise type(unique[0])(f"{start}{unique[0]}") from unique[0].__cause__
    if unique:
        lines = [f"  {n}. {error}" for n, error in enumerate(unique[:MAX_PROBLEMS], start=1)]
        if len(unique) > MAX_PROBLEMS:
            lines.append(f"  … and {len(unique) - MAX_PROBLEMS} more")
        raise ConfigError("\n".join([f"{start}{len(unique)} problems", *lines]))


def errors_of(function: Callable[..., Any], *arguments: Any) -> Iterator[SteelError]:
    """Yield the SteelError that a call raises, if it raises one."""
    try:
        function(*arguments)
    except SteelError as error:
        yield error


def refusal(place: str, value: Any, hint: Any) -> str:
    """A message that refuses a value of a field: place, value, what would do."""
    kind, declared = unwrapped(hint)
    origin = typing.get_origin(kind) or kind
    fitting = isinstance(origin, type) and isinstance(value, origin)
    rules = [limit for limit in declared if fitting and isinstance(limit, Rule)]
    value = next((part for rule in rules if (part := rule.culprits(value))), value)
    most = exceeded(value, hint)
    limit = "" if most is None else f", and at most {most:,.12g}"
    near = did_you_mean(value, _choices(hint))
    return f"{shown_place(place)} = {_brief(value)}; it must be {expected(hint)}{limit}{near}"


def _brief(value: Any) -> str:
    """A value for a message; of a large list or mapping only its size and first keys."""
    text = shown(value)
    if len(text) <= MAX_GROUP or not isinstance(value, Mapping | list | tuple):
        return text
    if not isinstance(value, Mapping):
        return f"a list of {len(value)}"
    keys = ", ".join(shown(key) for key in [*value][:3])
    return f"a mapping of {len(value)} ({keys}{', …' if len(value) > 3 else ''})"[:MAX_GROUP]


def shown_place(place: str) -> str:
    """A dotted key for a message: control characters escaped, shortened where it is very long."""
    text = place if place.isprintable() else repr(place)[1:-1]
    return text if len(text) <= MAX_PLACE else f"{text[:MAX_PLACE]}…"


def did_you_mean(value: Any, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of the known words, if one is near."""
    # Comparing long texts takes minutes, and none of them is a misspelt word.
    if not isinstance(value, str) or len(value) > MAX_WORD:
        return ""
    close = difflib.get_close_matches(value, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _choices(hint: Any) -> list[str]:
    kinds = [unwrapped(member)[0] for member in members(hint)]
    literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
    return [c for kind in literals for c in typing.get_args(kind) if isinstance(c, str)]


def _examine(
    value: Any,
    hint: Any,
    place: str,
    known_wrong: set[str],
    found: list[SteelError],
    *,
    complete: bool = True,
) -> bool:
    """Collect what is wrong below a place; return True if every value is within its range."""
    if place in known_wrong:
        return False
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _examine_fields(value, place, known_wrong, found, complete=complete)
    if (entry := _entry_type(value, hint)) is not None:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        within = [_examine(v, entry, f"{place}.{k}", known_wrong, found) for k, v in pairs]
        return all(within)
    if fits(value, hint):
        return True
    found.append(ConfigError(refusal(place, value, hint)))
    return False


def _examine_fields(
    config: Any, place: str, known_wrong: set[str], found: list[SteelError], *, complete: bool
) -> bool:
    prefix = f"{place}." if place else ""
    hints = field_types(type(config))
    within = [
        _examine(
            getattr(config, field.name),
            hints[field.name],
            f"{prefix}{field.name}",
            known_wrong,
            found,
            complete=field.metadata.get("complete", True),
        )
        for field in dataclasses.fields(config)
    ]
    # A key that does not exist may be one of these, misspelt.
    sound = all(within) and not any(wrong.rpartition(".")[0] == place for wrong in known_wrong)
    if sound and complete and isinstance(config, Config):
        found += [_placed(error, place, hints) for error in config.check()]
    # Contradictions between stages do not depend on the values within one.
    return sound or isinstance(config, StageConfig)


def _placed(error: SteelError, place: str, names: Collection[str]) -> SteelError:
    """An error with its place in front, which a message that begins with a field makes a key."""
    if not place or str(error).startswith((f"{place}:", f"{place}.")):
        return error
    first = str(error).partition(" ")[0].partition(".")[0]
    return type(error)(f"{place}{'.' if first in names else ': '}{error}")


def _entry_type(value: Any, hint: Any) -> Any:
    """Type of the entries of a list or mapping, where each may be looked at alone; else None."""
    kind, declared = unwrapped(hint)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if declared or not (isinstance(origin, type) and isinstance(value, origin)):
        return None
    if issubclass(origin, Mapping):
        return arguments[1]
    one_type = issubclass(origin, Sequence) and len(set(arguments) - {Ellipsis}) == 1
    return arguments[0] if one_type and (origin is not tuple or Ellipsis in arguments) else None


# ── from one class to another, from JSON ─────────────────────────────────────────────────────────


def narrowed(config: Any, base: type[T]) -> T:
    """The fields that a config inherits from `base`, as a `base`."""
    return base(**{name: getattr(config, name) for name in field_types(base)})


def from_json(cls: type[T], path: Path) -> T:
    """Read a (nested) config dataclass from a JSON file.

    Raises ConfigError as `from_plain`, and DataError for a file that is missing or no JSON.
    """
    return from_plain(cls, read_json_object(path), str(path))


def from_plain(cls: type[T], values: Any, place: str) -> T:
    """Build a (nested) config dataclass from JSON values.

    Raises ConfigError naming place and key for one that is unknown or missing, and for values out
    of range. Works where pydantic is not installed. `Config.check` is not called.
    """
    built = _built(cls, values, place)
    found = [
        ConfigError(refusal(f"{place}: {name}", getattr(built, name), hint))
        for name, hint in field_types(typing.cast("type[Any]", cls)).items()
        if not fits(getattr(built, name), hint)
    ]
    raise_all(found)
    return built


def _built(cls: type[T], values: Any, place: str) -> T:
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: expected an object with the fields of {cls.__name__}")
    hints = field_types(typing.cast("type[Any]", cls))
    if unknown := sorted(values.keys() - hints.keys()):
        known = ", ".join(hints)
        raise ConfigError(f"{place}: unknown key {shown(unknown[0])}; the keys are {known}")
    built = {name: _typed(hints[name], v, f"{place}: {name}") for name, v in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"{place}: {error}") from error


def _typed(hint: Any, value: Any, place: str) -> Any:
    """A JSON value as the type of its field: a dataclass, a list or mapping of them, or
    a tuple."""
    kind, _ = unwrapped(hint)
    if dataclasses.is_dataclass(kind) and not isinstance(kind, types.UnionType):
        return from_plain(typing.cast("type[Any]", kind), value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and isinstance(value, list):
        return [_typed(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], item, f"{place}: {key}") for key, item in value.items()}
    return tuple(value) if origin is tuple and isinstance(value, list) else value
