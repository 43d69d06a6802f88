"""Numbers of a report, each with a short id and the place in a stage's folder that it comes from.

    read        Place: stage, key, file, JSON pointer         52.8, 1,228,800
    computed    an operation of COMPUTED over other numbers   kept %, a difference, all hours
    curve       Place of a list of points                     train/loss by step

The id is a hash of the place, or of the operation and the ids it takes. A key is a hash of
everything that a result depends on, so equal results have equal ids in any store, in any report and
on any machine.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import write_text
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
    """Computation, where there is one: "running mean of train/loss"; POINTS for a curve; IN_TEXT
    and a number for one of those in a text."""
    part: str = ""
    """Source or benchmark that the number is about; "" for all."""

    @property
    def id(self) -> str:
        """Short hash of the place."""
        place = json.dumps([self.stage, self.key, self.file, self.pointer, self.how, self.part])
        return hashlib.sha256(place.encode()).hexdigest()[:DIGITS]


POINTS = "points"
"""Beginning of `how` for a curve: its points are at the pointer, or are those of a metric."""

IN_TEXT = "number in the text: "
"""Beginning of `how` for a number that stands in a text; its place among them follows."""

COMPUTED: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "ratio": lambda parts: parts[0] / parts[1],
    "difference": lambda parts: parts[0] - parts[1],
    "hours": lambda parts: parts[0] * parts[1] / 3600,
    "number": len,
}
"""Name of an operation -> it; `hours` is of seconds and processes, `number` counts."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A value with words for what it is, and the place it was read from or its computation."""

    value: float | int
    about: str
    place: Place | None = None
    """None where it was computed from `parts`, or where no stage is known for it."""
    how: str = ""
    """Operation of COMPUTED."""
    parts: tuple["Known", ...] = ()

    @property
    def has_origin(self) -> bool:
        """True if a place is known for it, or for everything that it was computed from."""
        return self.place is not None or (
            bool(self.parts) and all(part.has_origin for part in self.parts)
        )


def computed(about: str, how: str, *parts: Known) -> Known:
    """The value that an operation of COMPUTED makes of others."""
    value = COMPUTED[how]([part.value for part in parts])
    return Known(value=value, about=about, how=how, parts=parts)


def known(stage: StageResult | None, about: str, *names: str | int, part: str = "") -> Known | None:
    """The number that stands in a stage's manifest under these names; None where there is none."""
    if stage is None:
        return None
    at = pointer(*names)
    try:
        value = at_pointer(stage.manifest, at)
    except LookupError:
        return None
    if type(value) not in (int, float):
        return None
    place = place_in(stage, "manifest.json", pointer=at, part=part)
    return Known(value=value, about=about, place=place)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number as a report shows it."""

    id: str
    shown: str
    """Text in the report; "" for one that only others are computed from."""
    about: str
    """Words for what it is, in English."""
    value: float | int | None
    """None for a curve."""
    place: Place | None = None
    """None where it was computed from others."""
    how: str = ""
    """Operation of COMPUTED."""
    parts: tuple[str, ...] = ()
    """Ids of the numbers that it takes."""

    @classmethod
    def parsed(cls, entry: Mapping[str, Any]) -> "Number":
        """An entry of numbers.json. Raises TypeError, KeyError and ValueError for another."""
        identity, text, about = (str(entry[name]) for name in ("id", "shown", "about"))
        value = entry["value"]
        if value is not None and type(value) not in (int, float):
            raise TypeError(f"value is {value!r}")
        given, how = entry["place"], str(entry.get("how", ""))
        parts = tuple(str(part) for part in entry.get("parts", ()))
        if given is None:
            if how not in COMPUTED or not parts:
                raise ValueError(f"{how!r} of {len(parts)} numbers is no computation")
            return cls(id=identity, shown=text, about=about, value=value, how=how, parts=parts)
        place = Place(**{str(k): str(v) for k, v in given.items()})
        for path in (place.stage, place.key, place.file):
            if not is_relative_path(path):
                raise ValueError(f"{path!r} is no path in a store")
        return cls(id=identity, shown=text, about=about, value=value, place=place)


class Numbers:
    """The numbers of one report, collected while its text is made."""

    def __init__(self) -> None:
        self.by_id: dict[str, Number] = {}

    def note(self, shown: str, known: Known) -> str:
        """Note a number, and those that it was computed from; returns its id."""
        parts: tuple[str, ...] = ()
        if known.place is not None:
            identity = known.place.id
        else:
            parts = tuple(self.note("", part) for part in known.parts)
            digest = hashlib.sha256(json.dumps([known.how, parts]).encode())
            identity = digest.hexdigest()[:DIGITS]
        return self._note(
            Number(
                id=identity,
                shown=shown,
                about=known.about,
                value=known.value,
                place=known.place,
                how=known.how,
                parts=parts,
            )
        )

    def curve(self, name: str, about: str, place: Place) -> str:
        """Note a curve; returns its id."""
        return self._note(Number(id=place.id, shown=name, about=about, value=None, place=place))

    def _note(self, number: Number) -> str:
        known = self.by_id.setdefault(number.id, number)
        if (known.place, known.how, known.parts) != (number.place, number.how, number.parts):
            raise DataError(f"two numbers of the report have the id {number.id}")
        if number.shown and not known.shown:
            self.by_id[number.id] = number
        return number.id

    def add(self, others: "Numbers") -> None:
        """Take over numbers that were collected elsewhere."""
        for number in others.by_id.values():
            self._note(number)

    def text(self) -> str:
        """All of them as JSON, in the order of the report."""
        entries = [asdict(number) for number in self.by_id.values()]
        return json.dumps({"numbers": entries}, ensure_ascii=False, indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write `text`."""
        write_text(path, self.text())


def marked(shown: str, identity: str) -> str:
    """Markdown of a number in a page: a link to its own anchor, with its id."""
    return f'[{shown}](#{ANCHOR}{identity} "steel trace {identity}")'


CARD_MARK = re.compile(rf"\[([^\]]*)\]\[([0-9a-f]{{{DIGITS}}})\]")
"""A number in a card: its text, then its id."""


def unmarked(text: str) -> str:
    """Markdown without the links of numbers: `[43.2](#n-… "…")`, `[43.2][…]` -> `43.2`."""
    text = CARD_MARK.sub(r"\1", text)
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
    """Place in a stage's folder; None where the stage is not known, or is no stage of a store."""
    if stage is None or not stage.key:
        return None
    return Place(stage=stage.stage, key=stage.key, file=file, pointer=pointer, how=how, part=part)


NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
"""A number in a text: 3, 1,234 or 56.7."""


def numbers_in(text: str, form: Callable[[re.Match[str]], str]) -> str:
    """Replace the numbers in a text; digits within names, as in `belle_2m`, stay."""
    return re.sub(rf"(?<![A-Za-z0-9_.-]){NUMBER.pattern}(?![A-Za-z0-9_-]|\.\d)", form, text)


def numbers_of(text: str) -> list[float | int]:
    """The numbers in a text, as `numbers_in` finds them."""
    found: list[float | int] = []

    def one(match: re.Match[str]) -> str:
        found.append(value_of(match[0]))
        return ""

    numbers_in(text, one)
    return found


def value_of(text: str) -> float | int:
    """The value of a match of NUMBER."""
    plain = text.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def count_place(stage: StageResult | None, name: str) -> Place | None:
    """Place of a number in the `counts` of a stage's manifest."""
    return place_in(stage, "manifest.json", pointer=pointer("counts", name))
