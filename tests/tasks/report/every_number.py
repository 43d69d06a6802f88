"""Numbers of a rendered report or card that have no id, beyond the kinds that need none.

Kinds without an id: texts that are the same in every report (`25 %`, `figure 2`), figures of the
paper, dates, versions of software, keys and paths, names (of models, sources, subjects), and places
in a list (`#`, session).
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from tasks.core.paper.tables import load_paper
from tasks.report.language import Language, Writer, texts
from tasks.report.trace.numbers import CARD_MARK, Numbers

MARK = re.compile(r'\[[^\]]*\]\(#n-[0-9a-f]{8} "[^"]*"\)')
NUMBER = re.compile(r"\d[\d,.]*")
FREE = (
    r"`[^`]*`",  # keys, names of operators, paths
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    r"!\[[^\]]*\]\([^)]*\)",  # pictures
    r"\]\(https?://[^)]*\)",
)
PLACES = ("#", "session", "会话")
"""Columns that number the rows of a table."""
VERSIONS = ("version", "版本")


def without_digits(text: str) -> str:
    """A text of the report without its own digits; those of its fields stay."""
    parts = re.split(r"(\{[^}]*\})", text)
    return "".join(p if p.startswith("{") else re.sub(r"\d", "", p) for p in parts)


class DigitFree:
    """Makes a writer whose texts have no digits of their own: what is left comes from data."""

    def of(self, language: Language, numbers: Numbers, kind: type[Writer] = Writer) -> Writer:
        say = kind(language, numbers)
        say._texts = {key: without_digits(text) for key, text in texts(language).items()}
        return say


def without_id(text: str, names: Iterable[str]) -> list[str]:
    """(number, line) of every number of a page or model card that has no id."""
    paper = figures_of_the_paper()
    found = []
    free: list[int] = []
    for line in text.splitlines():
        if line.startswith("| ---"):
            continue
        cells = line.split(" | ") if line.startswith("| ") else [line]
        titles = [cell.strip("| ") for cell in cells]
        is_header = line.startswith("| ") and not free
        if is_header:
            free = [i for i, title in enumerate(titles) if title in (*PLACES, *VERSIONS)] or [-1]
        if not line.startswith("| "):
            free = []
        for place, cell in enumerate(cells):
            if place in free and not is_header:
                continue
            left = CARD_MARK.sub("", MARK.sub("", cell))
            for kind in FREE:
                left = re.sub(kind, "", left)
            for name in sorted(names, key=len, reverse=True):
                left = left.replace(name, "")
            found += [
                f"{match[0]} in: {line[:200]}"
                for match in NUMBER.finditer(left)
                if match[0].strip(",.") not in paper
            ]
    return found


def figures_of_the_paper() -> set[str]:
    """Every figure of Tables 2 to 4, as the report writes them, and the tables' numbers."""
    paper = load_paper()
    found = {"2", "3", "4"}
    for experiment in paper.table3.experiments:
        found |= {f"{share:.2f}" for share in experiment.accuracy.values()}
    for model in paper.table4.models:
        found |= {f"{share:.2f}" for share in model.accuracy.values()}
    baseline = paper.table2.experiment(paper.table2.baseline)
    for e in paper.table2.experiments:
        speed, memory = e.tokens_per_second_per_gpu, e.memory_gb
        found |= {f"{speed:,.0f}", f"{memory:.0f}"}
        found |= {f"{speed / baseline.tokens_per_second_per_gpu:.2f}"}
        found |= {f"{memory / baseline.memory_gb:.2f}"}
    return found


def names_of_the_paper() -> list[str]:
    """Titles with digits that stand in the paper's tables."""
    paper = load_paper()
    names = [e.title for e in paper.table3.experiments] + [m.name for m in paper.table4.models]
    names += [paper.table2.title, paper.table3.title, paper.table4.title]
    names += [f"exp{e.number}" for e in paper.table2.experiments]
    return [*names, "Exp8"]


def strings_of(value: Any) -> list[str]:
    """Every text of a data card that is written for people."""
    if isinstance(value, dict):
        return [
            text
            for key, inner in value.items()
            if key
            not in (
                "@context",
                "conformsTo",
                "md5",
                "version",
                "name",
                "datePublished",
                "contentUrl",
            )
            and not key.startswith("@")
            for text in strings_of(inner)
        ]
    if isinstance(value, list):
        return [text for inner in value for text in strings_of(inner)]
    return [value] if isinstance(value, str) else []


def data_card_without_id(text: str, numbers: Numbers, names: Iterable[str]) -> list[str]:
    """Numbers of a data card that have no id behind them, nor are sizes in numbers.json."""
    sizes = {number.shown for number in numbers.by_id.values()}
    found = []
    for line in strings_of(json.loads(text)):
        if line in sizes:
            continue
        left = re.sub(r"\d[\d,.]* \[[0-9a-f]{8}\]", "", line)
        for name in sorted(names, key=len, reverse=True):
            left = left.replace(name, "")
        found += [f"{match[0]} in: {line[:200]}" for match in NUMBER.finditer(left)]
    return found
