"""Numbers of a report, each with a short id and the place in a stage's folder that it comes from.

The id is a hash of the stage, its key and the place. A key is a hash of everything that a result
depends on, so equal results have equal ids in any store, in any report and on any machine.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import write_json
from common.names import is_relative_path
from common.paths import display
from common.reading.files import read_json_object
from tasks.core.manifest import StageResult

NUMBERS_FILE = "numbers.json"
"""Beside report.html: every number of the report with its id."""

ANCHOR = "n-"
"""Beginning of a number's anchor in the page: `#n-1f0c5a2b`."""

DIGITS = 8
"""Hexadecimal digits of an id: among a thousand numbers two alike are one case in 8,000."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Place in a stage's folder that a number was read from."""

    stage: str
    key: str
    file: str
    """Path in the stage's folder."""
    pointer: str = ""
    """JSON pointer (RFC 6901) to the number in the file; "" where it was computed."""
    how: str = ""
    """Computation, where there is one: "running mean of train/loss"."""
    part: str = ""
    """Source or benchmark that the number is about; "" for all."""

    @property
    def id(self) -> str:
        """Short hash of the place."""
        place = json.dumps([self.stage, self.key, self.file, self.pointer, self.how, self.part])
        return hashlib.sha256(place.encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number as a report shows it."""

    id: str
    shown: str
    """Text in the report."""
    about: str
    """Words for what it is, in English."""
    value: float | int | None
    place: Place

    @classmethod
    def parsed(cls, entry: Mapping[str, Any]) -> "Number":
        """An entry of numbers.json. Raises TypeError, KeyError and ValueError for another."""
        fields = {name: str(entry[name]) for name in ("id", "shown", "about")}
        value = entry["value"]
        if value is not None and type(value) not in (int, float):
            raise TypeError(f"value is {value!r}")
        place = Place(**{str(k): str(v) for k, v in entry["place"].items()})
        for path in (place.stage, place.key, place.file):
            if not is_relative_path(path):
                raise ValueError(f"{path!r} is no path in a store")
        return cls(value=value, place=place, **fields)


class Numbers:
    """The numbers of one report, collected while its text is made."""

    def __init__(self) -> None:
        self.by_id: dict[str, Number] = {}

    def mark(self, shown: str, about: str, value: float | int | None, place: Place) -> str:
        """Note a number; returns it as Markdown: a link to its own anchor, with its id."""
        number = self.by_id.setdefault(
            place.id, Number(id=place.id, shown=shown, about=about, value=value, place=place)
        )
        if number.place != place:
            raise DataError(f"two numbers of the report have the id {place.id}")
        return f'[{shown}](#{ANCHOR}{place.id} "steel trace {place.id}")'

    def write(self, path: Path) -> None:
        """Write all of them, in the order of the report."""
        write_json(path, {"numbers": [asdict(number) for number in self.by_id.values()]})


def unmarked(text: str) -> str:
    """Markdown without the links of numbers: `[43.2](#n-… "…")` -> `43.2`."""
    return re.sub(rf'\[([^\]]*)\]\(#{ANCHOR}[0-9a-f]+ "[^"]*"\)', r"\1", text)


def read_numbers(folder: Path) -> list[Number]:
    """Numbers of a report in `folder`; none for a report of before they had ids.

    Raises DataError for a file that is damaged.
    """
    path = folder / NUMBERS_FILE
    if not path.is_file():
        return []
    entries = read_json_object(path).get("numbers")
    try:
        if not isinstance(entries, list):
            raise TypeError("it has no list of numbers")
        return [Number.parsed(entry) for entry in entries]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{display(path)} is damaged: {error}; make the report anew") from error


def at_pointer(value: Any, pointer: str) -> Any:
    """The value that a JSON pointer (RFC 6901) leads to. Raises LookupError."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value[name]
        elif isinstance(value, Sequence) and not isinstance(value, str) and name.isdecimal():
            value = value[int(name)]
        else:
            raise LookupError(pointer)
    return value


def pointer(*names: str | int) -> str:
    """A JSON pointer through these names."""
    return "".join(f"/{str(n).replace('~', '~0').replace('/', '~1')}" for n in names)


def place_in(
    stage: StageResult | None, file: str, *, pointer: str = "", how: str = "", part: str = ""
) -> Place | None:
    """Place in a stage's folder; None where the stage is not known."""
    if stage is None:
        return None
    return Place(stage=stage.stage, key=stage.key, file=file, pointer=pointer, how=how, part=part)


def count_place(stage: StageResult | None, name: str) -> Place | None:
    """Place of a number in the `counts` of a stage's manifest."""
    return place_in(stage, "manifest.json", pointer=pointer("counts", name))
