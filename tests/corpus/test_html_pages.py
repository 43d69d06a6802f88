"""Text of HTML pages: the content stays, menus and footers go, nothing crashes the parser."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from corpus.html_pages import is_too_deep, page_text
from tests.corpus.html_examples import PAGES, Page


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_content_stays_and_the_rest_goes(page: Page) -> None:
    text = page_text(page.html, main_content=True)
    assert [part for part in page.content if part not in text] == []
    assert [part for part in page.other if part in text] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_all_text_stays_without_main_content(page: Page) -> None:
    text = page_text(page.html, main_content=False)
    body = LexborHTMLParser(page.html).body
    assert body is not None
    for name in ("script", "style"):
        for node in body.css(name):
            node.decompose()
    marks = re.compile(r"[-`0-9.²₂\s]+")  # of lists and code, digits raised and lowered
    assert marks.sub("", text) == marks.sub("", body.text(deep=True))


def test_a_page_of_nothing_but_a_menu_keeps_it() -> None:
    page = "<html><body><nav><ul><li><a href=/>首页</a></li></ul></nav></body></html>"
    assert "首页" in page_text(page, main_content=True)


TAGS = (
    "div p ul ol li table tr td th a b i sup sub pre code script style nav footer select option "
    "noscript iframe svg template body html head br h1 button textarea span"
)
SOUP = st.lists(
    st.builds(
        lambda end, name, attribute: f"<{end}{name}{attribute}>",
        st.sampled_from(["", "", "/"]),
        st.sampled_from(TAGS.split()),
        st.sampled_from(["", "", " id=nav", ' class="menu"', " href=x", "/"]),
    )
    | st.sampled_from(["文", "字很多", "a", "2", "\n", " ", "`", "<", "&lt;", "-", "\u200b", "#"]),
    max_size=30,
).map("".join)


@settings(max_examples=400)
@given(soup=SOUP, main_content=st.booleans())
def test_any_nest_of_tags_gives_text(soup: str, main_content: bool) -> None:
    """Elements that are taken away free those within them; to touch these would end the process."""
    text = page_text(soup, main_content=main_content)
    text.encode()
    assert not re.search(r"</?(?:div|td|li|sup|span)\b[^\n]*>", text)


@pytest.mark.parametrize(
    "page", ["<div>" * 100_000, "<font a=1><p>" * 50_000, "<ul><li>" * 50_000, "<pre><b>" * 50_000]
)
def test_deep_nests_are_refused(page: str) -> None:
    """Parsers take quadratic time for them."""
    assert is_too_deep(page)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "page",
    ["<p>文" * 100_000, "<td><a>文</a>" * 50_000, "<ul><li>文</ul>" * 30_000, "\n \n" * 200_000],
)
def test_wide_pages_take_linear_time(page: str) -> None:
    assert not is_too_deep(page)
    page_text(f"<html><body>{page}</body></html>", main_content=True)


def _real_pages(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.html")):
        yield path.read_text()
    with gzip.open(folder / "nacos_blog_pages.jsonl.gz") as file:
        for line in file:
            yield json.loads(line)["html"]


def _runs(text: str) -> Counter[str]:
    letters = re.sub(r"[\W_0-9²³]+", "", text)
    return Counter(letters[i : i + 4] for i in range(len(letters) - 3))


def test_real_pages_keep_their_article_and_lose_the_rest(shared: Path) -> None:
    """Against the element that this site's generator puts its articles into."""
    recalls, precisions = [], []
    for page in _real_pages(shared / "data/pretrain/dirty/html_zh"):
        tree = LexborHTMLParser(page)
        for node in tree.css("script, .hash-link"):
            node.decompose()
        article = tree.css_first("article .markdown")
        if article is None or len(article.text(deep=True)) < 300:
            continue
        title = " ".join(node.text(deep=True) for node in tree.css("article header h1"))
        wanted = _runs(title + article.text(deep=True))
        found = _runs(page_text(page, main_content=True))
        common = sum((wanted & found).values())
        recalls.append(common / sum(wanted.values()))
        precisions.append(common / sum(found.values()))
    assert len(recalls) == 37
    assert sum(recalls) / len(recalls) > 0.98
    assert sum(precisions) / len(precisions) > 0.97
    assert min(recalls) > 0.9
    assert min(precisions) > 0.9
