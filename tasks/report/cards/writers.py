"""Texts of cards, whose numbers show their ids: a card is read on a hub, without the report.

README.md        [52.8 (46.1 to 59.3)][1f0c5a2b], and a link to numbers.json for each id
croissant.json   568,993 [1f0c5a2b]
"""

from tasks.report.language import Language, Writer
from tasks.report.trace.numbers import NUMBERS_FILE, Numbers


class ModelCardWriter(Writer):
    """Writes a number as a Markdown reference by its id; `links` are the references' ends."""

    def __init__(self, language: Language = "en", numbers: Numbers | None = None) -> None:
        super().__init__(language, numbers)
        self._ids: dict[str, None] = {}

    def mark(self, shown: str, identity: str) -> str:
        self._ids[identity] = None
        return f"[{shown}][{identity}]"

    def links(self) -> str:
        """A line of Markdown for each id that stands in the text."""
        return "\n".join(f'[{i}]: {NUMBERS_FILE} "steel trace {i}"' for i in self._ids)


class DataCardWriter(Writer):
    """Writes a number in plain text, its id behind it."""

    def mark(self, shown: str, identity: str) -> str:
        return f"{shown} [{identity}]"
