"""Stages that a configuration makes anew where another one stands, and why.

Keys of both graphs are compared, stage by stage: a key is a hash of a stage's settings, its inputs'
keys, the recipes it reads and the files outside. No stage is made, and data need not be here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.manifest import plain
from tasks.core.plan import PlannedStage

MOST_REASONS = 6
"""Reasons of a stage that are listed; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One stage of the new configuration beside the same one of the other."""

    stage: str
    """Its name and label."""
    state: Literal["same", "redone", "new", "gone"]
    """same: the other's result is used; redone: another key; new: the other has none; gone: the
    new configuration makes none."""
    reasons: list[str]
    """Settings, inputs, recipes or files that differ."""
    unkeyed: list[str]
    """Settings that differ and are in no key: they redo nothing by themselves."""
    hours: float | None = None
    """Hours that making it takes; None: not known."""


def changes(new: Sequence[PlannedStage], other: Sequence[PlannedStage]) -> list[Change]:
    """Every stage of `new` beside that of `other`, and those that are gone."""
    pairs = dict(_pairs(new, other))
    found = []
    for stage in new:
        before = pairs.get(id(stage))
        if before is None:
            found.append(Change(stage=stage.stage, state="new", reasons=[], unkeyed=[]))
            continue
        reasons = [] if before.key == stage.key else list(_reasons(stage, before))
        found.append(
            Change(
                stage=stage.stage,
                state="same" if before.key == stage.key else "redone",
                reasons=_shortened(reasons),
                unkeyed=_shortened(list(_unkeyed(stage, before))),
            )
        )
    kept = {id(before) for before in pairs.values()}
    found += [
        Change(stage=stage.stage, state="gone", reasons=[], unkeyed=[])
        for stage in other
        if id(stage) not in kept
    ]
    return found


def _pairs(
    new: Sequence[PlannedStage], other: Sequence[PlannedStage]
) -> Iterator[tuple[int, PlannedStage]]:
    """Stages that stand for each other: of one name, and of one label where there are several."""
    by_stage = {stage.stage: stage for stage in other}
    by_name = {stage.name: stage for stage in other}
    here, there = Counter(s.name for s in new), Counter(s.name for s in other)
    for stage in new:
        alone = here[stage.name] == there[stage.name] == 1
        found = by_name.get(stage.name) if alone else by_stage.get(stage.stage)
        if found is not None:
            yield id(stage), found


def _reasons(new: PlannedStage, other: PlannedStage) -> Iterator[str]:
    """Differences of what two keys are hashes of."""
    if not (new.material and other.material):
        yield "a result that stands under a key of its own"
        return
    for path, before, after in _differences(other.material["config"], new.material["config"]):
        yield f"{new.name}{path}: {_shown(before)} -> {_shown(after)}"
    if other.material["version"] != new.material["version"]:
        yield f"version of the stage: {other.material['version']} -> {new.material['version']}"
    for path, before, after in _differences(other.material["inputs"], new.material["inputs"]):
        name = path.lstrip(".").replace(".", " ")
        if before is _ABSENT or after is _ABSENT:
            yield f"input {name} {'is new' if before is _ABSENT else 'is gone'}"
        else:
            yield f"its input {name} is another"
    for path, before, after in _differences(other.material["recipes"], new.material["recipes"]):
        name = path.lstrip(".")
        said = "is read" if before is _ABSENT else "is not read" if after is _ABSENT else "differs"
        yield f"recipe {name} {said}"
    outside = _differences({"": other.material["outside"]}, {"": new.material["outside"]})
    for path, _, _ in outside:
        yield f"files outside: {path.strip('.') or 'they'} differ"
        return


def _unkeyed(new: PlannedStage, other: PlannedStage) -> Iterator[str]:
    """Settings that differ and are in no key."""
    if not (new.material and other.material):
        return
    keyed = {path for path, _, _ in _differences(other.material["config"], new.material["config"])}
    for path, before, after in _differences(plain(other.config), plain(new.config)):
        if not any(path == key or path.startswith(f"{key}.") for key in keyed):
            yield f"{new.name}{path}: {_shown(before)} -> {_shown(after)}"


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, value before, value after) of each leaf that differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{path}.{key}"
            yield from _differences(before.get(key, _ABSENT), after.get(key, _ABSENT), inner)
    elif before != after:
        yield path, before, after


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _shortened(reasons: list[str]) -> list[str]:
    left = len(reasons) - MOST_REASONS
    return reasons if left <= 0 else [*reasons[:MOST_REASONS], f"and {left} more"]
