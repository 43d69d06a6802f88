"""A number as it stands in the store now: read or computed again, and the points of a curve."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import DataError, shown
from common.files import md5_of_file
from common.paths import display
from common.reading.files import read_json_object
from model.train.run.metrics import read_metrics
from tasks.core.manifest import StageResult
from tasks.report.trace.numbers import (
    COMPUTED,
    IN_TEXT,
    POINTS,
    Number,
    Place,
    at_pointer,
    numbers_of,
)

SOUND = ("as in the file", "computed")
"""States of a number that nothing is wrong with."""

Points = list[tuple[float, float]]


def origins(number: Number, by_id: Mapping[str, Number]) -> Iterator[Number]:
    """Yield the numbers of files that a number was computed from, or itself."""
    if number.place is not None:
        yield number
    for part in number.parts:
        if part in by_id:
            yield from origins(by_id[part], by_id)


def state_of(store: Path, number: Number, by_id: Mapping[str, Number]) -> str:
    """Compare a number, and what it was read or computed from, with what lies in the store now.

    Returns `as in the file`, `computed`, or what is wrong.
    """
    if number.place is not None:
        return _read_again(store, number, number.place)
    if any(part not in by_id for part in number.parts):
        return "numbers that it was computed from are not in this report"
    parts = [by_id[part] for part in number.parts]
    for part in parts:
        state = state_of(store, part, by_id)
        if state not in SOUND:
            return f"{part.about}: {state}"
    again = COMPUTED[number.how]([part.value for part in parts if part.value is not None])
    if number.value is None or not math.isclose(again, number.value, rel_tol=1e-9):
        return f"the same computation gives {again:g} now"
    return "computed"


def _read_again(store: Path, number: Number, place: Place) -> str:
    folder = store / place.stage / place.key
    path = folder / place.file
    manifest = folder / "manifest.json"
    if not folder.is_dir() or (folder.parent.parent == store and not manifest.is_file()):
        return f"{display(folder)} is not in this store any more"
    if not path.is_file():
        return f"{display(path)} is missing"
    if manifest.is_file():
        listed = {e["path"]: e["md5"] for e in StageResult.read(folder).manifest.get("files", [])}
        if place.file in listed and md5_of_file(path) != listed[place.file]:
            return f"{display(path)} has changed since it was written"
    if not place.pointer:
        return "computed"
    try:
        now: Any = at_pointer(read_json_object(path), place.pointer)
        if place.how.startswith(IN_TEXT):
            now = numbers_of(str(now))[int(place.how.removeprefix(IN_TEXT))]
    except LookupError:
        return f"{display(path)} has nothing at {place.pointer}"
    if place.how.startswith(POINTS):
        return "as in the file"
    return "as in the file" if now == number.value else f"the file has {shown(now)} there"


def points_of(store: Path, number: Number) -> Points:
    """Points of a curve, (step or tokens, value); none where it is not in the store any more."""
    place = number.place
    if place is None or not place.how.startswith(POINTS):
        return []
    path = store / place.stage / place.key / place.file
    metric = place.how.removeprefix(POINTS).removeprefix(" of ")
    try:
        if not place.pointer:
            lines = [line for line in read_metrics(path) if metric in line["metrics"]]
            return [(line["step"], line["metrics"][metric]) for line in lines]
        content = read_json_object(path)
        values = at_pointer(content, place.pointer)
        tokens = content.get("tokens", range(len(values)))
        return [(x, y) for x, y in zip(tokens, values, strict=True) if y is not None]
    except (LookupError, DataError, OSError):
        return []
