"""How many steps a run has, and how that changed while it ran.

    steps 0 ─────────── c1 ─────────── c2 ───────▶ total_steps
    steps               change 1       change 2    = the last change's, or `steps`

A run starts with a number of steps. Appended data or a request may move its end, or begin the decay
of the learning rate, at a step boundary. Each change is kept with the step from which it holds, so
that the rate of every step, past and future, stays a function of (settings, horizon, step)
(model/train/schedule.py): resuming needs no other state.

On disk the changes lie in `horizon.json` beside the run, written before a step uses them, and in
every checkpoint's `trainer.json`.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from common.errors import DataError
from common.files import digest_of, write_json

SCHEMA_VERSION = 1
FILE_NAME = "horizon.json"

Policy = Literal["keep", "extend"]
"""What an append does to the number of steps: leave it, or add the new samples' steps."""


@dataclass(frozen=True, kw_only=True)
class HorizonChange:
    """One change of a run's end."""

    step: int
    """Completed steps when it was made: the first step it governs has this (0-based) number."""
    total_steps: int
    """Steps of the whole run from then on."""
    decay_at: int | None = None
    """Step from which the rate falls to its minimum at `total_steps`; None: where the schedule
    itself puts it."""
    policy: Literal["keep", "extend", "set"]
    """keep and extend: what an append asked for; set: asked for by `steel horizon`."""
    manifest: str | None = None
    """Digest of the appended data that it came with; None for `set`."""
    request: str
    """Name of the request, by which it is known to be done already."""

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """The inverse of `asdict`. Raises DataError for a missing, unknown or mistyped field."""
        names = {f.name for f in fields(cls)}
        if not isinstance(raw, Mapping) or names != set(raw):
            raise DataError(f"horizon change {raw!r} has not the fields {', '.join(sorted(names))}")
        numbers = [raw["step"], raw["total_steps"], raw["decay_at"] or 0]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise DataError(f"horizon change {raw!r}: steps are integers, 0 or more")
        return cls(**raw)


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The steps of a run and all changes of them, in the order they were made."""

    steps: int
    """Steps that the run started with."""
    changes: tuple[HorizonChange, ...] = ()
    """Ascending in `step`; several may share one."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, as known now."""
        return self.changes[-1].total_steps if self.changes else self.steps

    @property
    def decay_at(self) -> int | None:
        """The requested beginning of the decay, as known now."""
        return self.changes[-1].decay_at if self.changes else None

    def change(self, change: HorizonChange) -> "Horizon":
        """The horizon with one more change."""
        assert not self.changes or self.changes[-1].step <= change.step, "changes are in order"
        return replace(self, changes=(*self.changes, change))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for a checkpoint's trainer.json."""
        return {"steps": self.steps, "changes": [asdict(change) for change in self.changes]}

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """The inverse of `to_dict`. Raises DataError."""
        if not isinstance(raw, Mapping) or type(raw.get("steps")) is not int:
            raise DataError(f"horizon {raw!r} lacks the number of steps")
        changes = tuple(HorizonChange.from_dict(change) for change in raw.get("changes", ()))
        return cls(steps=raw["steps"], changes=changes)


def write_changes(folder: Path, horizon: Horizon) -> None:
    """Publish the changes of a run's horizon durably."""
    content = {"schema_version": SCHEMA_VERSION, "changes": horizon.to_dict()["changes"]}
    write_json(folder / FILE_NAME, content | {"digest": digest_of(content)})


def end_of(folder: Path, start: Horizon) -> int:
    """Where a run ends by its file; cheap, to be asked while it runs."""
    return replace(start, changes=read_changes(folder)).total_steps


def read_changes(
    folder: Path, manifests: Collection[str] | None = None
) -> tuple[HorizonChange, ...]:
    """The changes of a run's horizon; none when its file is absent.

    A change that came with an append counts only if the journal has that append: the journal is
    written after this file, so a run killed between the two has not appended anything.

    Args:
        folder: of the run.
        manifests: digests of the data in the run's journal; None: believe all.

    Raises:
        DataError: the file is damaged, of another schema, or was edited.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return ()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version, changes, digest = raw["schema_version"], raw["changes"], raw["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a readable horizon: {error!r}") from None
    if version != SCHEMA_VERSION:
        raise DataError(f"schema_version in {path} is {version!r}, not {SCHEMA_VERSION}")
    if digest != digest_of({"schema_version": version, "changes": changes}):
        raise DataError(f"digest in {path} does not fit its changes: the file was edited")
    read = [HorizonChange.from_dict(change) for change in changes]
    return tuple(c for c in read if manifests is None or c.manifest in (None, *manifests))
