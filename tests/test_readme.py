"""README.zh.md says in Chinese the same as README.md: commands, figures, links, pictures."""

import re
from collections import Counter
from pathlib import Path

import pytest

from common.paths import ROOT

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?")
SPAN = re.compile(r"`([^`\n]+)`")
OTHER_UNITS = {"11.2"}
"""Numbers that only one language needs: 1.12 billion is 11.2 亿 (hundred millions)."""


def code(path: Path) -> list[list[str]]:
    """Blocks of code, line by line, without comments and the descriptions of a tree's folders."""
    return [
        [re.split(r"\s+#\s|(?<=/)\s{2,}", line)[0].rstrip() for line in block.splitlines()]
        for block in BLOCK.findall(path.read_text(encoding="utf-8"))
    ]


def prose(path: Path) -> str:
    return BLOCK.sub("", path.read_text(encoding="utf-8"))


def sections(path: Path) -> list[str]:
    return re.split(r"^## ", prose(path), flags=re.MULTILINE)


def test_commands_are_the_same() -> None:
    assert code(ENGLISH) == code(CHINESE)
    assert sum(map(len, code(ENGLISH))) > 50


def test_sections_follow_each_other_alike() -> None:
    assert len(sections(ENGLISH)) == len(sections(CHINESE)) > 6


@pytest.mark.parametrize("number", range(len(sections(ENGLISH))))
def test_a_section_has_the_same_figures_links_and_code(number: int) -> None:
    english, chinese = sections(ENGLISH)[number], sections(CHINESE)[number]
    for text in (english, chinese):
        assert text.strip()
    # Each page has a link to the other one, which is no link to itself.
    links = [
        Counter(link for link in LINK.findall(text) if not link.startswith("README"))
        for text in (english, chinese)
    ]
    assert links[0] == links[1]
    assert Counter(SPAN.findall(english)) == Counter(SPAN.findall(chinese))
    figures = [
        Counter(NUMBER.findall(SPAN.sub("", LINK.sub("", text)))) for text in (english, chinese)
    ]
    assert figures[0] == Counter({n: k for n, k in figures[1].items() if n not in OTHER_UNITS})


def test_the_pages_lead_to_each_other() -> None:
    assert "README.zh.md" in LINK.findall(ENGLISH.read_text(encoding="utf-8"))
    assert "README.md" in LINK.findall(CHINESE.read_text(encoding="utf-8"))
