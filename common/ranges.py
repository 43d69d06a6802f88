"""Ranges of configured values, declared where a field is annotated: `Annotated[int, Ge(1)]`.

The declarations are those of the library annotated_types, which pydantic enforces. A bare GPU
machine has neither; there stand-ins of the same names serve, and `fits` is the check. `Rule` is
for what a function decides (common/names.py).
"""

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

try:
    from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate
except ModuleNotFoundError:
    Ge = make_dataclass("Ge", ["ge"], frozen=True)  # type: ignore[misc, assignment]
    Gt = make_dataclass("Gt", ["gt"], frozen=True)  # type: ignore[misc, assignment]
    Le = make_dataclass("Le", ["le"], frozen=True)  # type: ignore[misc, assignment]
    Lt = make_dataclass("Lt", ["lt"], frozen=True)  # type: ignore[misc, assignment]
    MinLen = make_dataclass("MinLen", ["min_length"], frozen=True)  # type: ignore[misc, assignment]
    Predicate = make_dataclass("Predicate", ["func"], frozen=True)  # type: ignore[misc, assignment]

__all__ = [
    "Epochs",
    "Ge",
    "Gt",
    "Le",
    "Limit",
    "Lt",
    "MinLen",
    "Minutes",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Processes",
    "Rate",
    "Rule",
    "Samples",
    "Seed",
    "Steps",
    "exceeded",
    "expected",
    "fits",
    "members",
]


@dataclass(frozen=True)
class Rule(Predicate):
    """A range that a function decides."""

    words: str
    """Words for the values that it accepts."""
    culprits: Callable[[Any], Any] = lambda value: value
    """Picks out of a refused value the part to show; empty where another rule refused it."""


@dataclass(frozen=True)
class Limit(Predicate):
    """An upper bound beyond all that makes sense; a message names it only where it is exceeded."""

    func: Callable[[Any], bool] = field(init=False, repr=False, compare=False)
    most: float
    """Largest value that is accepted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "func", self.accepts)

    def accepts(self, value: Any) -> bool:
        """Return True for a value that is not above the bound."""
        return bool(value <= self.most)


MOST = 10**15
"""Of everything that is counted: a hundred times the tokens of the largest corpus."""
MOST_FLOAT = 1e12
SEEDS = 2**32 - 1
"""Largest seed that every library takes."""

PositiveInt = Annotated[int, Ge(1), Limit(MOST)]
NonNegativeInt = Annotated[int, Ge(0), Limit(MOST)]
PositiveFloat = Annotated[float, Gt(0), Limit(MOST_FLOAT)]
NonNegativeFloat = Annotated[float, Ge(0), Limit(MOST_FLOAT)]
Seed = Annotated[int, Ge(0), Limit(SEEDS)]
Steps = Annotated[int, Ge(0), Limit(10**10)]
"""Steps of a training; the longest ones have some 10^7."""
Epochs = Annotated[float, Ge(0), Limit(10**6)]
Rate = Annotated[float, Gt(0), Limit(100)]
"""A learning rate."""
Samples = Annotated[int, Ge(1), Limit(10**8)]
"""Samples of a batch."""
Processes = Annotated[int, Ge(1), Limit(4096)]
"""Processes on one machine."""
Minutes = Annotated[float, Gt(0), Limit(10**6)]
"""About two years at the most: timers take no more."""

NAMES: Mapping[Any, str] = {
    Any: "anything",
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
    types.NoneType: "null",
}


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; another type is its own only one."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


def unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without `Annotated`, and what it was annotated with."""
    if typing.get_origin(hint) is Annotated:
        base, *declared = typing.get_args(hint)
        return base, tuple(declared)
    return hint, ()


def fits(value: Any, hint: Any) -> bool:
    """Return True if a value has the declared type and range; numbers must be finite.

    Entries of lists, tuples and mappings are looked at as well; dataclasses are not looked into.
    """
    return any(_fits_member(value, member) for member in members(hint))


def _fits_member(value: Any, hint: Any) -> bool:
    kind, declared = unwrapped(hint)
    if len(members(kind)) > 1:
        return fits(value, kind) and _in_range(value, declared)
    return _has_type(value, kind) and _in_range(value, declared)


def _has_type(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is Any:
        return _is_finite(value)
    if origin in (int, float) and isinstance(value, bool):
        return False
    if origin is float:
        return isinstance(value, int | float) and _is_finite(value)
    if not isinstance(origin, type):
        return True
    if not isinstance(value, origin) or (
        isinstance(value, int) and origin is int and abs(value) > MOST_INT
    ):
        return False
    if not arguments:
        return True
    if isinstance(value, Mapping):
        return all(fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items())
    if isinstance(value, tuple) and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(
            fits(entry, argument) for entry, argument in zip(value, arguments, strict=True)
        )
    if isinstance(value, Sequence):
        return all(fits(entry, arguments[0]) for entry in value)
    return True


def _is_finite(value: Any) -> bool:
    """Return False for infinity, NaN and whole numbers that no float holds, also in a container."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    if isinstance(value, int):
        return value.bit_length() < 1024
    return not isinstance(value, float) or math.isfinite(value)


def _in_range(value: Any, declared: Sequence[Any]) -> bool:
    return not any(
        (isinstance(limit, Ge) and value < limit.ge)
        or (isinstance(limit, Gt) and value <= limit.gt)
        or (isinstance(limit, Le) and value > limit.le)
        or (isinstance(limit, Lt) and value >= limit.lt)
        or (isinstance(limit, MinLen) and len(value) < limit.min_length)
        or (isinstance(limit, Rule | Limit) and not limit.func(value))
        for limit in declared
    )


def exceeded(value: Any, hint: Any) -> float | None:
    """The `Limit` of a type that a number exceeds; None where it exceeds none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        return None
    limits = [d for member in members(hint) for d in unwrapped(member)[1] if isinstance(d, Limit)]
    if int in members(hint):
        limits.append(Limit(MOST_INT))
    return next((limit.most for limit in limits if value > limit.most), None)


MOST_INT = 2**63 - 1
"""Whole numbers that libraries take, where a type declares no range."""


def expected(hint: Any) -> str:
    """Words for the values that a type accepts: "a whole number of at least 1 or auto"."""
    return " or ".join(dict.fromkeys(map(_expected_member, members(hint))))


def _expected_member(hint: Any) -> str:
    kind, declared = unwrapped(hint)
    rules = [limit.words for limit in declared if isinstance(limit, Rule)]
    if rules and kind is str:
        return " and ".join(rules)
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if len(members(kind)) > 1:
        name = expected(kind)
    elif origin is Literal:
        *others, last = (str(c).lower() if isinstance(c, bool) else str(c) for c in arguments)
        name = f"{', '.join(others)} or {last}" if others else last
    elif origin is tuple and Ellipsis not in arguments:
        name = f"a list of {len(arguments)}, each {expected(arguments[0])}"
    elif origin in NAMES:
        name = NAMES[origin]
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        name = "a mapping"
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        name = "a list"
    else:
        name = "a mapping of keys to values"
    return ", ".join([f"{name}{_range(declared)}", *rules])


def _range(declared: Sequence[Any]) -> str:
    low = next((limit for limit in declared if isinstance(limit, Ge | Gt)), None)
    high = next((limit for limit in declared if isinstance(limit, Le | Lt)), None)
    least = next((f", at least {m.min_length} long" for m in declared if isinstance(m, MinLen)), "")
    if low is not None and high is not None:
        first = f"[{low.ge}" if isinstance(low, Ge) else f"({low.gt}"
        last = f"{high.le}]" if isinstance(high, Le) else f"{high.lt})"
        return f" in {first}, {last}{least}"
    if low is not None:
        return (f" of at least {low.ge}" if isinstance(low, Ge) else f" above {low.gt}") + least
    if high is not None:
        return (f" of at most {high.le}" if isinstance(high, Le) else f" below {high.lt}") + least
    return least
