"""Raw records of text files and feeds: a corpus of one's own that has no format of its own.

    reading: files   *.txt *.md *.html *.tex …   the whole file is one record {"text"}
                     *.xml *.rss *.atom          a feed: each entry is one {"title", "text"}
    reading: lines   *.txt                       each line is one record {"text"}

HTML stays HTML here, and so does what a feed carries escaped: cleaning takes the tags out.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from corpus import json_items
from corpus.formats.encodings import data_suffix, open_as_utf8
from corpus.formats.records import (
    READ_ERRORS,
    Damaged,
    RawRecord,
    decode_line,
    split_lines,
    unreadable_rest,
)

FEED_SUFFIXES = (".xml", ".rss", ".atom")
WHOLE_SUFFIXES = (
    ".txt",
    ".text",
    ".md",
    ".markdown",
    ".html",
    ".htm",
    ".xhtml",
    ".tex",
    ".rst",
    *FEED_SUFFIXES,
)
"""Endings, before .gz or .zst, of files that are read whole."""

LINE_SUFFIXES = (".txt", ".text")
"""Endings of files that are read by line."""


def read_lines(path: Path, *, blank: bool = False) -> Iterator[RawRecord]:
    """Each line of a text file as {"text"}; blank ones only where `blank`."""
    try:
        with open_as_utf8(path) as (file, disk, encoding):
            for number, line in enumerate(split_lines(file), 1):
                if blank or line.strip():
                    text = decode_line(line, encoding)
                    value = text if isinstance(text, Damaged) else {"text": text}
                    yield RawRecord(number, value, disk.tell(), encoding.name)
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)


def read_file(path: Path) -> Iterator[RawRecord]:
    """A text file as {"text"}, or the entries of a feed as {"title", "text"}."""
    size = path.stat().st_size
    try:
        with open_as_utf8(path) as (file, _, encoding):
            text = decode_line(file.read(json_items.MAX_RECORD + 1).removesuffix(b"\n"), encoding)
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)
        return
    if isinstance(text, Damaged):
        if encoding.codec == "utf-8":
            # One bad byte takes the whole file: say on which line it stands.
            text = _with_line(path, text)
        yield RawRecord(0, text, size, encoding.name)
    elif data_suffix(path) in FEED_SUFFIXES:
        yield from (
            RawRecord(number, value, size, encoding.name) for number, value in _entries(text)
        )
    else:
        yield RawRecord(1, {"text": text}, size, encoding.name)


def _with_line(path: Path, damage: Damaged) -> Damaged:
    for record in read_lines(path):
        if isinstance(record.value, Damaged):
            reason = f"{record.value.reason} of line {record.line}"
            return Damaged(reason=reason, excerpt=record.value.excerpt)
    return damage


_STRAY_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d+|#[xX][0-9a-fA-F]+);)")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def _entries(text: str) -> Iterator[tuple[int, dict[str, str] | Damaged]]:
    """Numbered entries of a feed; of any other XML file all its text, as one."""
    try:
        root = _parsed(text)
    except (DefusedXmlException, ParseError, ValueError) as error:
        what = "refused XML" if isinstance(error, DefusedXmlException) else "malformed XML"
        # The line of a ParseError is part of its message.
        yield 0, Damaged(reason=f"{what}: {error}"[:300], excerpt=text.strip()[:200])
        return
    entries = [element for element in root.iter() if _name(element) in ("item", "entry")]
    if not entries:
        yield 1, {"text": "\n".join(filter(None, (part.strip() for part in root.itertext())))}
    for number, entry in enumerate(entries, 1):
        yield number, {"title": _child(entry, "title"), "text": _content(entry)}


def _parsed(text: str) -> Element:
    """The tree of an XML file. Entities that it declares itself are refused (defusedxml)."""
    try:
        return _root(text)
    except ParseError:
        # Feeds are cut off in mid-reference (`&#2...`), use HTML's entities (`&nbsp;`), and carry
        # control characters: all of it readable.
        return _root(_STRAY_AMPERSAND.sub("&amp;", _NO_XML.sub("", text)))


def _root(text: str) -> Element:
    # Decoded already: the encoding that the file declares no longer counts.
    root: Element = fromstring(re.sub(r"\A\s*<\?xml[^>]*\?>", "", text))
    return root


def _name(element: Element) -> str:
    """A tag without its namespace."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def _child(entry: Element, *names: str) -> str:
    """Text of the child of the first of these names that has any."""
    for name in names:
        for child in entry:
            if _name(child) == name and (text := "".join(_pieces(child)).strip()):
                return text
    return ""


_BLOCKS = ("p", "div", "br", "li", "tr", "blockquote", "pre", "h1", "h2", "h3", "h4", "h5", "h6")


def _pieces(element: Element) -> Iterator[str]:
    """Text of an element; where it holds XHTML, with a line end at each end of a block."""
    for event, inner in _walk(element):
        if event == "start":
            yield inner.text or ""
        else:
            yield "\n" if _name(inner) in _BLOCKS else ""
            yield (inner.tail or "") if inner is not element else ""


def _walk(element: Element) -> Iterator[tuple[str, Element]]:
    """Start and end of every element in order; not recursive, since feeds may be hostile."""
    waiting = [("start", element)]
    while waiting:
        event, inner = waiting.pop()
        yield event, inner
        if event == "start":
            waiting.append(("end", inner))
            waiting += [("start", child) for child in reversed(inner)]


def _content(entry: Element) -> str:
    """Longest text of an entry: `description` and `summary` often hold only its beginning."""
    candidates = [_child(entry, name) for name in ("encoded", "content", "description", "summary")]
    return max(candidates, key=len)
