"""The sample as one HTML file that needs nothing else: no script, no request."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from corpus.cleaning.review.markup import document_html

HERE = Path(__file__).parent
FILE_NAME = "review.html"
"""The page in a finished stage's folder."""

TITLES = {"changed": "Changed documents", "dropped": "Dropped documents", "kept": "Kept documents"}
LARGEST = 20_000_000
"""Characters of documents on the page; `steel review` shows those that have no room on it."""


def style() -> str:
    """The style sheet, for the page and the server's."""
    return (HERE / "page.css").read_text(encoding="utf-8")


def sample_page(rows: Iterable[Mapping[str, Any]], title: str) -> str:
    """Make the page: a chapter for each kind and operator, a document in each fold."""
    parts: list[str] = []
    chapter: tuple[str, str] | None = None
    size = left_out = 0
    for row in rows:
        document = document_html(row)
        if size + len(document) > LARGEST:
            left_out += 1
            continue
        size += len(document)
        if chapter is None or chapter[0] != row["kind"]:
            parts.append(f"<h2>{TITLES[row['kind']]}</h2>")
        if chapter != (row["kind"], row["operator"]) and row["kind"] != "kept":
            parts.append(f"<h3>{escape(row['operator'])}</h3>")
        chapter = row["kind"], row["operator"]
        parts.append(f"<article>{document}</article>")
    if not parts:
        parts.append("<p>No sample was taken (clean.examples is 0, or the executor is Ray).</p>")
    if left_out:
        parts.append(f"<p>{left_out} more documents are shown by <code>steel review</code>.</p>")
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), style=style(), body="\n".join(parts))
