"""Rules that recognise spam: words and measures from a file, each with the reason it gives."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from common.errors import ConfigError
from common.paths import RECIPES, display
from corpus.cleaning.quality import features

RULES = RECIPES / "quality" / "rules.yaml"
Codes = npt.NDArray[np.uint32]

SHAPES = ({"words", "count", "different", "within"}, {"measure", "least", "most"})


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A condition on words."""

    words: tuple[str, ...]
    count: int = 1
    """Occurrences of all of them together, at least."""
    different: int = 1
    """Different ones, at least."""
    within: int | None = None
    """Characters from the text's beginning in which they stand."""

    def holds(self, text: str, pairs: set[str]) -> bool:
        """True if the text has the words.

        Args:
            text: with small letters for capital ones.
            pairs: beginnings of words, of two characters, that the text has; others are not
                looked for.
        """
        looked_at = text if self.within is None else text[: self.within]
        different = count = 0
        for word in self.words:
            if len(word) > 1 and word[:2] not in pairs:
                continue
            if found := looked_at.count(word):
                different, count = different + 1, count + found
                if different >= self.different and count >= self.count:
                    return True
        return False


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A condition on a measure of the page."""

    measure: str
    least: float = float("-inf")
    most: float = float("inf")

    def holds(self, measures: Mapping[str, float]) -> bool:
        """True if the measure lies within its bounds."""
        return self.least <= measures[self.measure] <= self.most


@dataclass(frozen=True, kw_only=True)
class Rule:
    """All conditions of a reason."""

    reason: str
    conditions: tuple[Wording | Measured, ...]


@functools.cache
def rules(path: Path = RULES) -> tuple[Rule, ...]:
    """The rules of a file. Raises ConfigError for one that cannot be understood."""
    data = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(data, list):
        raise ConfigError(f"{display(path)} must be a list of rules")
    return tuple(_rule(entry, f"{display(path)}, rule {n}") for n, entry in enumerate(data, 1))


def _rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, dict) or set(entry) != {"reason", "all"} or not entry["all"]:
        raise ConfigError(f"{where}: it needs `reason`, and its conditions under `all`")
    return Rule(
        reason=str(entry["reason"]),
        conditions=tuple(_condition(one, where) for one in entry["all"]),
    )


def _condition(entry: Any, where: str) -> Wording | Measured:
    known = set(entry) if isinstance(entry, dict) else set()
    if "words" in known and known <= SHAPES[0]:
        words = entry["words"]
        if isinstance(words, list) and words and all(isinstance(w, str) and w for w in words):
            lowered = tuple(word.lower() for word in words)
            return Wording(**(entry | {"words": lowered}))
    elif "measure" in known and known <= SHAPES[1] and len(known) > 1:
        if entry["measure"] in features.names():
            return Measured(**entry)
        raise ConfigError(f"{where}: there is no measure {entry['measure']!r}")
    raise ConfigError(
        f"{where}: {entry!r} is neither `words` (with `count`, `different`, `within`) nor "
        "`measure` with `least` or `most`"
    )


class Beginnings:
    """The first two characters of all words, found in a text in one pass over an array."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """
        Args:
            rules: those whose words are looked for.
        """
        conditions = [one for rule in rules for one in rule.conditions]
        words = {w for one in conditions if isinstance(one, Wording) for w in one.words}
        self._pairs = sorted({word[:2] for word in words if len(word) > 1})
        codes = features.code_points("".join(self._pairs)).reshape(-1, 2)
        self._marked = np.zeros(1 << 16, np.bool_)
        self._marked[_folded(codes[:, 0], codes[:, 1])] = True
        self._known = frozenset(self._pairs)

    def find(self, text: str) -> set[str]:
        """Those that the text has, each of them once."""
        codes = features.code_points(text)
        places = np.flatnonzero(self._marked[_folded(codes[:-1], codes[1:])])
        return {pair for at in places.tolist() if (pair := text[at : at + 2]) in self._known}


def _folded(first: Codes, second: Codes) -> npt.NDArray[np.uint16]:
    """A number of 16 bits for each pair of characters."""
    return (first * np.uint32(0x9E37) ^ second).astype(np.uint16)


@functools.cache
def beginnings(path: Path = RULES) -> Beginnings:
    """The beginnings of the words of a file."""
    return Beginnings(rules(path))


def reason_to_drop(text: str, path: Path = RULES) -> str:
    """The reason of the first rule that holds for a text; empty for none."""
    lowered = text.lower()
    pairs = beginnings(path).find(lowered)
    measures: dict[str, float] | None = None
    for rule in rules(path):
        for condition in rule.conditions:
            if isinstance(condition, Wording):
                holds = condition.holds(lowered, pairs)
            else:
                if measures is None:
                    found = features.measure(text).measures.tolist()
                    measures = dict(zip(features.names(), found, strict=True))
                holds = condition.holds(measures)
            if not holds:
                break
        else:
            return rule.reason
    return ""
