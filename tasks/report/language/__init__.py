"""Texts of the report and of the cards by language: one file a language, the same keys in each.

The program that writes a page is one for all languages; `Writer` gives it the texts.
"""

import functools
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from common.recipes import read_yaml
from tasks.report.trace.numbers import Numbers, Place

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


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

    def number(self, shown: str, about: str, value: float | int | None, place: Place | None) -> str:
        """A number with its id, where the report collects them and its place is known."""
        if self.numbers is None or place is None:
            return shown
        return self.numbers.mark(shown, about, value, place)


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
