"""Texts of the report and of the cards by language: one file a language, the same keys in each.

The program that writes a page is one for all languages; `Writer` gives it the texts.
"""

import functools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from common.recipes import read_yaml
from tasks.report.trace.numbers import (
    IN_TEXT,
    POINTS,
    Known,
    Numbers,
    Place,
    marked,
    numbers_in,
    value_of,
)

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

DETAILS = ("<details><summary>", "</summary>", "</details>")
"""Around a text that opens behind one line: the only HTML of a report's Markdown."""


class Writer:
    """Texts in one language, and the numbers that stand in them."""

    def __init__(self, language: Language = "en", numbers: Numbers | None = None) -> None:
        self.language = language
        self.numbers = numbers
        self._texts = texts(language)

    def __call__(self, key: str, **fields: Any) -> str:
        """The text of a key, with its fields. Raises KeyError for a key that is not there."""
        return self._texts[key].format(**fields)

    def word(self, group: str, name: str) -> str:
        """A name from data, such as a column of a stage's table; untranslated if not known."""
        return self._texts.get(f"{group}.{name}", name)

    def mark(self, shown: str, identity: str) -> str:
        """A number's text with its id, as Markdown."""
        return marked(shown, identity)

    def number(self, shown: str, about: str, value: float | int, place: Place | None) -> str:
        """A number with its id, where they are collected and its place is known."""
        return self.known(shown, Known(value=value, about=about, place=place))

    def known(
        self, form: str | Callable[[Any], str], known: Known | None, absent: str = "not_run"
    ) -> str:
        """`number`, of a value that is known with its origin.

        Args:
            form: its text, or what makes it of the value.
            known: None where there is no number.
            absent: key of the text that stands there then.
        """
        if known is None:
            return self(absent)
        shown = form if isinstance(form, str) else form(known.value)
        if self.numbers is None or not known.has_origin:
            return shown
        return self.mark(shown, self.numbers.note(shown, known))

    def details(self, line: str, text: str) -> str:
        """A text that opens behind one line."""
        return f"{DETAILS[0]}{line}{DETAILS[1]}\n\n{text}\n\n{DETAILS[2]}"

    def curve(self, name: str, about: str, place: Place | None) -> str:
        """Name of a curve with its id; `steel trace` lists its points."""
        if self.numbers is None or place is None:
            return name
        place = replace(place, how=f"{POINTS} of {place.how}" if place.how else POINTS)
        return self.mark(name, self.numbers.curve(name, about, place))

    def curves(self, curves: Sequence[tuple[str, str, Place | None]]) -> str:
        """A line under a picture: each (name, words, place) of its curves with an id."""
        if self.numbers is None or not curves:
            return ""
        return self("page.points", names=", ".join(self.curve(*curve) for curve in curves))

    def in_text(self, text: str, about: str, place: Place | None) -> str:
        """A text from data; each number in it has an id.

        place: of the text. Digits of names, such as those of `belle_2m`, are no numbers.
        """
        if place is None:
            return text
        found = iter(range(len(text)))

        def one(match: re.Match[str]) -> str:
            at = replace(place, how=f"{IN_TEXT}{next(found)}")
            return self.number(match[0], about, value_of(match[0]), at)

        return numbers_in(text, one)


@functools.cache
def texts(language: Language) -> Mapping[str, str]:
    """Key -> text; keys of sections are joined by dots."""
    return dict(_flat(read_yaml(Path(__file__).parent / f"{language}.yaml"), ""))


def _flat(section: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    found = []
    for name, value in section.items():
        key = f"{prefix}{name}"
        found += _flat(value, f"{key}.") if isinstance(value, Mapping) else [(key, str(value))]
    return found


def fields_of(text: str) -> set[str]:
    """Names of the fields that a text has."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}
