"""Text of (X)HTML that is XML already: of feeds and of EPUB pages."""

import re
from collections.abc import Collection, Iterator, Mapping
from xml.etree.ElementTree import Element

BLOCKS = (
    "p", "div", "br", "li", "tr", "blockquote", "pre", "h1", "h2", "h3", "h4", "h5", "h6",
    "section", "article", "dt", "dd", "figcaption", "hr",
)  # fmt: skip
"""Elements that end a line."""


def tag_name(element: Element) -> str:
    """A tag without its namespace."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def pieces(
    element: Element,
    marks: Mapping[int, str] | None = None,
    *,
    skipped: Collection[str] = (),
    flowing: bool = False,
) -> Iterator[str]:
    """Text of an element; where it holds XHTML, with a line end at each end of a block.

    marks: id of an element -> what is written before its text; "\\x01" then stands behind it.
    skipped: elements whose text is left out.
    flowing: line ends of the source are blanks, as browsers show them, but in <pre>.
    """
    pre = 0
    for event, inner in _walk(element, skipped):
        mark = marks.get(id(inner)) if marks else None
        if event == "start":
            pre += tag_name(inner) == "pre"
            yield mark or ""
            text = "" if tag_name(inner) in skipped else inner.text or ""
            yield _flowing(text) if flowing and not pre else text
        else:
            pre -= tag_name(inner) == "pre"
            yield "\x01" if mark else ""
            yield "\n" if tag_name(inner) in BLOCKS else ""
            if tag_name(inner) in ("td", "th") and inner is not element:
                yield "\t"
            text = (inner.tail or "") if inner is not element else ""
            yield _flowing(text) if flowing and not pre else text


_IN_CHINESE = re.compile(
    r"(?<=[\u3000-\u9fff\uff00-\uffef])[ \t\r]*\n\s*(?=[\u3001-\u9fff\uff00-\uffef])"
)


def _flowing(text: str) -> str:
    """Text without the line ends of its source: a blank each, between Chinese characters none."""
    return re.sub(r"[ \t\r\n\f]+", " ", _IN_CHINESE.sub("", text)) if text else text


def _walk(element: Element, skipped: Collection[str]) -> Iterator[tuple[str, Element]]:
    """Start and end of every element in order; not recursive, since files may be hostile."""
    waiting = [("start", element)]
    while waiting:
        event, inner = waiting.pop()
        yield event, inner
        if event == "start":
            waiting.append(("end", inner))
            if tag_name(inner) not in skipped:
                waiting += [("start", child) for child in reversed(inner)]
