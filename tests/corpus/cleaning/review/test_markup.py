"""Documents as HTML: hostile texts stay texts, and what cannot be seen is shown."""

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.review.markup import SHOWN, document_html, visible
from corpus.cleaning.review.page import sample_page

HOSTILE = (
    """</div><script>alert('x')</script><img src=x onerror="alert(1)">&lt;b&gt; ]]> <!-- -->"""
)
OURS = {"header", "span", "b", "code", "p", "div", "section", "h4", "del", "ins", "i", "details"}


class Reader(HTMLParser):
    """Collects the tags of a page and the text of its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def example(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "family": "web",
        "source": "s",
        "operator": "a_mapper",
        "id": "s/a#1",
        "before": "原文",
    } | more


@pytest.mark.parametrize(
    "row",
    [
        example("changed", before=HOSTILE + "甲", after=HOSTILE + "乙"),
        example("changed", before="甲", after=HOSTILE),
        example("dropped", before=HOSTILE, measured={HOSTILE: 1.0, "reason": HOSTILE}),
        example("dropped", before="甲", duplicate_of=HOSTILE, kept_instead=HOSTILE),
        example("kept", before=HOSTILE, id=HOSTILE, operator=HOSTILE, family=HOSTILE),
        example("kept", before=HOSTILE * SHOWN),
    ],
)
def test_no_tag_of_a_text_becomes_one_of_the_page(row: dict[str, Any]) -> None:
    read = Reader(document_html(row))
    assert set(read.tags) <= OURS | {"summary"}
    assert read.attributes <= {"class", "dir"}
    assert "alert" in read.text
    page = sample_page([row], "t")
    assert "<script" not in page and "<img" not in page


@given(st.text())
def test_printable_texts_are_shown_as_they_are(text: str) -> None:
    read = Reader(visible(text))
    assert set(read.tags) <= {"i"}
    if all(c.isprintable() for c in text):
        assert read.text == text


def test_invisible_characters_are_named() -> None:
    assert visible("a\u200bb\u202ec") == "a<i>U+200B</i>b<i>U+202E</i>c"
    assert visible(" \n\t", marked=True) == "<i>·</i><i>⏎</i>\n<i>⇥</i>"


def test_sides_mark_what_only_they_have() -> None:
    html = document_html(example("changed", before="他打坏了门。", after="他打坯了门。"))
    assert "打<del>坏</del>了" in html and "打<ins>坯</ins>了" in html
    assert "18 → 18 bytes (+0)" in html


def test_page_without_a_sample_says_why() -> None:
    assert "No sample was taken" in sample_page([], "t")
