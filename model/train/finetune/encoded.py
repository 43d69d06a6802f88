"""Encoded conversations on disk: columns of token ids, read by memory map.

    <set>/ids.npy          int32 [T]     ids of all conversations, one behind the other
          ids_starts.npy   int64 [N+1]   conversation i has ids[starts[i] : starts[i+1]]
          spoken.npy       uint8 [T]     1: said by the assistant, the end of its turn included
          notes.npy        record [N]    digest, language, style, why it is left out, …
          encoded.json                   number of samples, names behind the notes' numbers

Whole, whatever `max_length` a training has: a set is encoded once for all mixtures and settings.

N = samples of a set, T = tokens of all of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.files import complete_file, write_json

Ints = npt.NDArray[np.int64]

ENCODED_FILE = "encoded.json"
"""Written last: a folder with it is complete."""
SCHEMA_VERSION = 1

NOTES = np.dtype(
    [
        ("digest", "<u8"),  # of the sample's text: the same in every set, mixture and vocabulary
        ("language", "u1"),  # number in the names of encoded.json, as are the next three
        ("style", "u1"),
        ("left_out", "u1"),
        ("contaminated", "u1"),  # 1: contains a benchmark question
        ("first_begin", "<i4"),  # first id that is a target, and the end of that first answer;
        ("first_end", "<i4"),  # 0 where nothing is one
        ("at", "<i8"),  # byte of the set's rows.jsonl at which its text begins
    ]
)
"""Facts about each sample beside its ids."""

COLUMNS = ("ids", "spoken")
"""Columns of a set."""
_TYPES = {"spoken": np.dtype("u1")}
_STARTS_OF = {"spoken": "ids"}
"""A column that has the starts of another one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """Values of all samples, one sample behind the other."""

    values: npt.NDArray[Any]
    """Of all samples, [T]."""
    starts: Ints
    """First value of each sample, and the end of the last, [N+1]."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, sample: int) -> npt.NDArray[Any]:
        return self.values[self.starts[sample] : self.starts[sample + 1]]

    @property
    def lengths(self) -> Ints:
        """Values of each sample, [N]."""
        return np.diff(self.starts)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedSet:
    """One set of conversations as token ids."""

    folder: Path
    """Its folder."""
    columns: Mapping[str, Column]
    """Columns of ids by name (COLUMNS)."""
    notes: npt.NDArray[Any]
    """Facts about each sample, [N] of NOTES."""
    languages: Sequence[str]
    """Names of the numbers in `notes["language"]`."""
    styles: Sequence[str]
    """Names of the numbers in `notes["style"]`; the first is empty."""
    reasons: Sequence[str]
    """Names of the numbers in `notes["left_out"]`; the first is empty: not left out."""

    def __len__(self) -> int:
        return len(self.notes)

    @classmethod
    def open(cls, folder: Path) -> "EncodedSet":
        """Open a set by memory map. Raises DataError where it is not complete."""
        try:
            about = json.loads((folder / ENCODED_FILE).read_text(encoding="utf-8"))
            if about["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema {about['schema']!r}, not {SCHEMA_VERSION}")
            columns = {}
            for name in COLUMNS:
                starts = _mapped(folder / f"{_STARTS_OF.get(name, name)}_starts.npy")
                columns[name] = Column(values=_mapped(folder / f"{name}.npy"), starts=starts)
            notes = _mapped(folder / "notes.npy")
            found = cls(
                folder=folder,
                columns=columns,
                notes=notes,
                languages=about["languages"],
                styles=about["styles"],
                reasons=about["reasons"],
            )
            for name, column in columns.items():
                if len(column) != about["samples"] or column.starts[-1] != len(column.values):
                    raise ValueError(f"{name}.npy does not hold {about['samples']} samples")
            if len(notes) != about["samples"] or notes.dtype != NOTES:
                raise ValueError(f"notes.npy does not describe {about['samples']} samples")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{folder} holds no complete encoded set ({error}): remove it to encode it again"
            ) from error
        return found


def _mapped(path: Path) -> npt.NDArray[Any]:
    # An empty file cannot be mapped.
    loaded = np.load(path, mmap_mode=None if path.stat().st_size < 4096 else "r")
    assert isinstance(loaded, np.ndarray)
    return loaded


class EncodedWriter:
    """Collects the samples of one part of a set, in order."""

    def __init__(self) -> None:
        self._values: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in COLUMNS}
        self._notes: list[tuple[Any, ...]] = []
        self.languages: list[str] = []
        self.styles: list[str] = [""]
        self.reasons: list[str] = [""]

    def __len__(self) -> int:
        return len(self._notes)

    def add(
        self,
        columns: Mapping[str, Sequence[int] | npt.NDArray[Any]],
        *,
        digest: int,
        language: str,
        style: str = "",
        left_out: str = "",
        contaminated: bool = False,
        at: int = -1,
    ) -> None:
        """Add one sample."""
        first = _first_run(columns["spoken"])
        for name, values in self._values.items():
            values.append(np.asarray(columns[name], dtype=_TYPES.get(name, np.dtype("<i4"))))
        self._notes.append(
            (
                digest,
                _number(self.languages, language),
                _number(self.styles, style),
                _number(self.reasons, left_out),
                contaminated,
                *first,
                at,
            )
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The samples as arrays by name, for `np.savez` and `write_encoded`."""
        arrays: dict[str, npt.NDArray[Any]] = {"notes": np.array(self._notes, dtype=NOTES)}
        for name, values in self._values.items():
            kind = _TYPES.get(name, np.dtype("<i4"))
            arrays[name] = np.concatenate(values) if values else np.zeros(0, kind)
            if name not in _STARTS_OF:
                lengths = [len(value) for value in values]
                arrays[f"{name}_starts"] = np.cumsum([0, *lengths], dtype=np.int64)
        return arrays

    def names(self) -> dict[str, list[str]]:
        """Names behind the numbers of the notes."""
        return {"languages": self.languages, "styles": self.styles, "reasons": self.reasons}


def _first_run(spoken: Sequence[int] | npt.NDArray[Any]) -> tuple[int, int]:
    """Begin and end of the first ones in a mask; 0, 0 where there are none."""
    mask = np.asarray(spoken, np.int8)
    begin = int(mask.argmax()) if len(mask) else 0
    if not len(mask) or not mask[begin]:
        return 0, 0
    rest = mask[begin:] == 0
    return begin, begin + int(rest.argmax()) if rest.any() else len(mask)


def _number(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def write_encoded(
    folder: Path,
    parts: Iterable[tuple[Mapping[str, npt.NDArray[Any]], Mapping[str, Sequence[str]], int]],
) -> int:
    """Write the parts of a set, in order, as one; returns the number of samples.

    Each part: arrays and names of an EncodedWriter, and the byte of rows.jsonl at which its texts
    begin, which is added to `at`. What is written depends on the samples alone, not on how they are
    divided into parts. Tokens are written as they come: never more than a part is in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {"languages": [], "styles": [""], "reasons": [""]}
    notes: list[npt.NDArray[Any]] = []
    starts: dict[str, list[Ints]] = {n: [] for n in COLUMNS if n not in _STARTS_OF}
    raw = {name: folder / f"{name}.raw" for name in COLUMNS}
    files = {name: path.open("wb") for name, path in raw.items()}
    sizes = dict.fromkeys(raw, 0)
    try:
        for arrays, own, at in parts:
            part = np.array(arrays["notes"], dtype=NOTES)
            part["at"] += at
            for field, key in (
                ("language", "languages"),
                ("style", "styles"),
                ("left_out", "reasons"),
            ):
                numbers = [_number(names[key], name) for name in own[key]]
                if len(part):
                    part[field] = np.array(numbers, np.uint8)[part[field]]
            notes.append(part)
            for name, ends in starts.items():
                ends.append(arrays[f"{name}_starts"][1:] + sizes[name])
            for name, file in files.items():
                file.write(np.ascontiguousarray(arrays[name]).data)
                sizes[name] += len(arrays[name])
    finally:
        for file in files.values():
            file.close()
    for name, path in raw.items():
        kind_of = _TYPES.get(name, np.dtype("<i4"))
        _save(
            folder / f"{name}.npy",
            np.memmap(path, kind_of, "r") if sizes[name] else np.zeros(0, kind_of),
        )
        path.unlink()
    for name, ends in starts.items():
        _save(folder / f"{name}_starts.npy", np.concatenate([np.zeros(1, np.int64), *ends]))
    whole = np.concatenate([np.zeros(0, NOTES), *notes])
    _save(folder / "notes.npy", whole)
    about = {"schema": SCHEMA_VERSION, "samples": len(whole), **names}
    write_json(folder / ENCODED_FILE, about)
    return len(whole)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with complete_file(path) as file:
        np.save(file, array, allow_pickle=False)
