"""Raw records of text files and feeds: a corpus of one's own that has no format of its own.

    reading: files   *.txt *.md *.html *.tex …   the whole file is one record {"text"}, or each
                                                 chapter of a novel (chapters.py)
                     *.docx *.epub               the same of its text (documents.py)
                     *.xml *.rss *.atom          a feed: each entry is one {"title", "text"}
    reading: lines   *.txt                       each line is one record {"text"}

HTML stays HTML here, and so does what a feed carries escaped: cleaning takes the tags out.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from corpus import json_items
from corpus.formats.chapters import Chapter, split_chapters
from corpus.formats.documents import MAX_UNPACKED, Unreadable, read_document
from corpus.formats.encodings import (
    Encoding,
    Neighbours,
    data_suffix,
    open_as_utf8,
    open_binary,
    open_unpacked,
)
from corpus.formats.legacy_chinese import LOST, decode_block, decode_document
from corpus.formats.records import (
    CANNOT_READ,
    READ_ERRORS,
    Damaged,
    RawRecord,
    decode_line,
    split_lines,
    unreadable_rest,
)
from corpus.formats.text_keys import TextRecord
from corpus.xhtml import pieces, tag_name

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

CHAPTER_SUFFIXES = (".txt", ".text", ".md", ".markdown")
"""Endings of files that may be a novel of many chapters."""

MAX_FILE = json_items.MAX_RECORD
"""Bytes of a file that is read whole, at most."""

LINE_SUFFIXES = (".txt", ".text")
"""Endings of files that are read by line."""


MAX_LOST = 0.02
"""Share of a file's bytes that may be damaged; of one that looks like another encoding than those
that are read here, a twentieth of it."""


def read_lines(
    path: Path, neighbours: Neighbours | None = None, *, blank: bool = False
) -> Iterator[RawRecord]:
    """Each line of a text file as {"text"}; blank ones only where `blank`."""
    try:
        with open_as_utf8(path, neighbours) as (file, disk, encoding):
            for number, line in enumerate(split_lines(file), 1):
                if blank or line.strip():
                    text, lost = decode_line(line, encoding)
                    value = text if isinstance(text, Damaged) else TextRecord(text=text)
                    yield RawRecord(number, value, disk.tell(), encoding.name, lost)
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)


def read_file(path: Path, neighbours: Neighbours | None = None) -> Iterator[RawRecord]:
    """A text file as {"text"}, its chapters, or the entries of a feed as {"title", "text"}."""
    size = path.stat().st_size
    try:
        with open_unpacked(path, neighbours) as (file, encoding):
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE and data_suffix(path) in CHAPTER_SUFFIXES:
            yield from _read_blocks(path, neighbours)
            return
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)
        return
    name = encoding.name
    if len(data) > MAX_FILE:
        damage = Damaged(reason="longer than a record may be", excerpt=_beginning(data, encoding))
        yield RawRecord(0, damage, size, name)
        return
    text, lost = decode_document(data, encoding)
    text = _line_ends(text).removeprefix("\ufeff").removesuffix("\n")
    if lost > max(2, _most_lost(encoding) * len(data)):
        yield RawRecord(0, _with_line(path, encoding, lost), size, name)
    elif data_suffix(path) in FEED_SUFFIXES:
        for number, value in _entries(text):
            yield RawRecord(number, value, size, name)
    else:
        chapters = split_chapters(text) if data_suffix(path) in CHAPTER_SUFFIXES else []
        yield from (r._replace(encoding=name) for r in chapter_records(text, chapters, size, lost))


def _most_lost(encoding: Encoding) -> float:
    return MAX_LOST / 20 if encoding.doubt else MAX_LOST


def _line_ends(text: str) -> str:
    """A text with line ends `\\n` where an old Mac wrote only `\\r`."""
    return text.replace("\r", "\n") if "\r" in text and "\n" not in text else text


def _read_blocks(path: Path, neighbours: Neighbours | None) -> Iterator[RawRecord]:
    """A text too long to be read whole: its chapters, or blocks of it that end where lines do."""
    size, carried, number, line, rest = path.stat().st_size, "", 0, 0, b""
    with open_as_utf8(path, neighbours) as (file, disk, encoding):
        while data := rest + file.read(MAX_FILE // 4):
            is_last = len(data) - len(rest) < MAX_FILE // 4
            end = len(data) if is_last else data.rfind(b"\n") + 1 or _last_start(data)
            text, lost = decode_block(data[:end], encoding)
            rest = data[end:]
            if lost > max(2, _most_lost(encoding) * end):
                reason = f"not {encoding.name}: {lost} damaged bytes of {end} behind line {line}"
                yield RawRecord(0, Damaged(reason=reason), disk.tell(), encoding.name)
                continue
            text = carried + _line_ends(text)
            chapters = split_chapters(text)
            # The last chapter may go on in the next block.
            carried = "" if is_last or len(chapters) < 2 else chapters.pop().text
            text = text.removesuffix(carried)
            chapters = chapters if len(chapters) > 1 or not carried else [*chapters, *_NONE]
            for record in chapter_records(text, chapters, size, lost):
                value = record.value
                if "line" in value:
                    value["line"] += line
                yield RawRecord(number + record.line, value, disk.tell(), encoding.name)
            number += max(1, len(chapters))
            line += text.count("\n")


_NONE = [Chapter(title="", text="", line=0)]
"""Chapter without text beside an only one, which so remains a chapter."""


def _last_start(data: bytes) -> int:
    """Offset of the last character of UTF-8."""
    end = len(data) - 1
    while end > 1 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def chapter_records(
    text: str, chapters: Sequence[Chapter], size: int, lost: int = 0, title: str = ""
) -> Iterator[RawRecord]:
    """The chapters of a document as records, numbered from 1; the whole text where it has none.

    Args:
        text: the document.
        chapters: its chapters.
        size: bytes of its file.
        lost: bytes that were left out of it.
        title: title of the whole.
    """
    about: dict[str, Any] = {"book": title} if title else {}
    if len(chapters) < 2:
        damage = {"lost_bytes": lost} if lost else {}
        yield RawRecord(1, TextRecord(text=text, **about, **damage), size)
        return
    for number, chapter in enumerate(chapters, 1):
        if not chapter.text.strip():
            continue
        heading = {"chapter": chapter.title} if chapter.title else {}
        damage = {"lost_bytes": n} if (n := chapter.text.count(LOST)) and lost else {}
        value = TextRecord(text=chapter.text, line=chapter.line, **about, **heading, **damage)
        yield RawRecord(number, value, size * number // len(chapters))


def read_document_file(path: Path, neighbours: Neighbours | None = None) -> Iterator[RawRecord]:
    """A Word or EPUB file as {"text"}, or as its chapters."""
    size = path.stat().st_size
    try:
        with open_binary(path) as file:
            data = file.read(MAX_UNPACKED + 1)
        if len(data) > MAX_UNPACKED:
            raise Unreadable("longer than a record may be")
        document = read_document(data_suffix(path), data)
    except Unreadable as error:
        yield RawRecord(0, Damaged(reason=f"{CANNOT_READ}: {error}"), size)
        return
    except READ_ERRORS as error:
        yield unreadable_rest(path, error)
        return
    text = document.text
    is_book = data_suffix(path) == ".epub"
    chapters = split_chapters(text, document.headings, is_book=is_book)
    yield from chapter_records(text, chapters, size, title=document.title)
    for part in document.missing:
        yield RawRecord(0, Damaged(reason=f"{CANNOT_READ} its part {part}"), size)


def _beginning(data: bytes, encoding: Encoding) -> str:
    return data[:400].decode(encoding.codec, "replace")[:200].strip()


def _with_line(path: Path, encoding: Encoding, lost: int) -> Damaged:
    """Damage of a file, with the line on which the first damaged byte stands."""
    for record in read_lines(path):
        if isinstance(record.value, Damaged):
            reason = f"{record.value.reason} of line {record.line}"
            return Damaged(reason=reason, excerpt=record.value.excerpt)
    return Damaged(reason=f"not {encoding.name}: {lost} damaged bytes")


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
    entries = [element for element in root.iter() if tag_name(element) in ("item", "entry")]
    if not entries:
        texts = filter(None, (part.strip() for part in root.itertext()))
        yield 1, TextRecord(text="\n".join(texts))
    for number, entry in enumerate(entries, 1):
        yield number, TextRecord(title=_child(entry, "title"), text=_content(entry))


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


def _child(entry: Element, *names: str) -> str:
    """Text of the child of the first of these names that has any."""
    for name in names:
        for child in entry:
            if tag_name(child) == name and (text := "".join(pieces(child)).strip()):
                return text
    return ""


def _content(entry: Element) -> str:
    """Longest text of an entry: `description` and `summary` often hold only its beginning."""
    candidates = [_child(entry, name) for name in ("encoded", "content", "description", "summary")]
    return max(candidates, key=len)
