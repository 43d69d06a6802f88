"""One finding of `steel doctor`."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]
"""problem: something does not work, or will not; note: worth knowing, and may be meant."""

LEVELS: tuple[Level, ...] = ("problem", "note", "ok")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that was looked at."""

    area: str
    """versions, machine, disk, gpu, services, network or leftovers."""
    level: Level
    """ok, note or problem."""
    text: str
    """The fact, with its numbers."""
    mend: str = ""
    """A command, or what to do, that changes it; empty where nothing is to be done."""
    repairable: bool = False
    """True if `steel doctor --repair` mends it."""


def ok(area: str, text: str) -> Finding:
    """Something that is as it should be."""
    return Finding(area=area, level="ok", text=text)


def note(area: str, text: str, mend: str = "") -> Finding:
    """Something worth knowing."""
    return Finding(area=area, level="note", text=text, mend=mend)


def problem(area: str, text: str, mend: str, *, repairable: bool = False) -> Finding:
    """Something that does not work."""
    return Finding(area=area, level="problem", text=text, mend=mend, repairable=repairable)
