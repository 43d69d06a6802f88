"""Names that become part of a path, a metric or a run, and paths that stay in their folder.

    Name            corpus, set, mixture, benchmark, subject, pipeline: one part of a path
    NamesOf[T]      a mapping of such names, no two the same on a disk that ignores upper case
    RelativePath    a file or a pattern below a folder: parts joined by `/`, none of them `..`

A name is letters and digits of any script, `_`, `-`, single spaces, and a dot only before a digit
(`v1.5`): so none is hidden, leads elsewhere, is read as an option or a pattern, is refused by
MLflow, or is one of Steel's own files (`law.yaml`, `manifest.json`, `x.partial`).
"""

import re
import unicodedata
from collections.abc import Collection
from typing import Annotated, Any, TypeVar

from common.ranges import Rule

MAX_NAME_BYTES = 100
"""Bytes of UTF-8 in a name: files of 255 bytes hold it with numbers and suffixes."""

BIDI_CONTROLS = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
"""Unicode's bidirectional classes of characters that make a name read as another."""

_NAME = re.compile(r"\w(?:[\w-]| (?! )|\.(?=[0-9]))*(?<! )")

T = TypeVar("T")


class UnsafeName(ValueError):
    """A name that would lead out of its folder, or is none; the message says why."""


def is_name(value: Any) -> bool:
    """Return True for a text that can be a name."""
    return (
        isinstance(value, str)
        and _NAME.fullmatch(value) is not None
        and len(value.encode()) <= MAX_NAME_BYTES
        and unicodedata.is_normalized("NFC", value)
    )


def folded(name: str) -> str:
    """The same for all names that a disk may take for one: in case, width or composition."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def same_names(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of different names that some disk takes for one."""
    seen: dict[str, str] = {}
    return [
        (first, name) for name in names if (first := seen.setdefault(folded(name), name)) != name
    ]


def are_distinct(names: Any) -> bool:
    """Return True for names that stay different on every disk."""
    return not _alike(names)


def _alike(names: Any) -> list[tuple[str, str]]:
    return same_names([name for name in names if isinstance(name, str)])


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path that someone else chose. Raises UnsafeName.

    A backslash counts as a separator, as it does for the programs that write it.
    """
    plain = name.replace("\\", "/")
    if "\0" in name:
        raise UnsafeName("has a name with a NUL in it")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise UnsafeName("has a name with a control character, or that is not UTF-8")
    if any(unicodedata.bidirectional(char) in BIDI_CONTROLS for char in name):
        raise UnsafeName("has a name with a mark that turns the direction of text")
    if plain.startswith("/"):
        raise UnsafeName("has an absolute path")
    if re.match(r"[A-Za-z]:", plain):
        raise UnsafeName("has a path with a drive letter")
    parts = tuple(part for part in plain.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafeName("has a path with `..`")
    if not parts:
        raise UnsafeName("has no name")
    return parts


def is_relative_path(value: Any) -> bool:
    """Return True for a path, or a pattern of paths, that stays below its folder."""
    try:
        return isinstance(value, str) and "\\" not in value and bool(safe_parts(value))
    except UnsafeName:
        return False


NAME_WORDS = (
    f"a name: letters, digits, `_`, `-`, single spaces inside, a dot only before a digit, at most "
    f"{MAX_NAME_BYTES} bytes, no `-` or dot first, accents composed (NFC)"
)

Name = Annotated[str, Rule(is_name, NAME_WORDS)]
"""One part of a path."""

Distinct = Rule(are_distinct, "names that differ in more than upper and lower case", _alike)
"""For collections of names."""

NamesOf = Annotated[dict[Name, T], Distinct]
"""A mapping of names to something."""

RelativePath = Annotated[
    str, Rule(is_relative_path, "a path below its folder, without `..`, `\\` or a leading `/`")
]
"""A file below a folder, or a pattern of such files."""
