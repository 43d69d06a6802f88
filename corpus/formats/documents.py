"""Word and EPUB files as text: paragraphs on lines of their own, headings known.

    .docx  ──python-docx──▶ paragraphs, tables, notes          ┐
    .epub  ──OPF's order──▶ XHTML of each part ──its blocks──▶ ┴ text, lines that are headings

Both are zip archives that others made: what they unpack to is bounded before anything is unpacked,
and XML that declares entities is refused (defusedxml, python-docx).
"""

import io
import posixpath
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

import docx
import docx.oxml.ns
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from corpus.formats.encodings import encoding_of_sample
from corpus.formats.legacy_chinese import decode_document
from corpus.xhtml import pieces, tag_name

MAX_UNPACKED = 512 * 1024**2
"""Unpacked bytes of one file, pictures included, at most."""

MAX_RATIO = 250
"""Bytes unpacked per byte packed, once `RATIO_FREE` is passed."""

RATIO_FREE = 16 * 1024**2

MAX_MEMBERS = 50_000
"""Members of one file at most."""

BINARY_SUFFIXES = (".docx", ".epub")
"""Endings of files that are read here."""


class Unreadable(ValueError):
    """A file that is no sound document of its kind; the message says why."""


@dataclass(kw_only=True)
class TextOfDocument:
    """A document's text by lines."""

    title: str = ""
    """Title that the file states; empty where it states none."""
    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Parts of it that cannot be read."""
    marked: list[tuple[int, int, bool]] = field(default_factory=list)
    """(line from 1, level from 1, is it the first of its page) of each heading."""

    @property
    def headings(self) -> list[int]:
        """Lines that begin a chapter: headings of the level that most pages begin with, and above.

        In a file without pages, those of the uppermost level that is there more than once.
        """
        firsts = Counter(level for _, level, first in self.marked if first)
        counts = Counter(level for _, level, _ in self.marked)
        if not counts:
            return []
        several = [level for level, count in counts.items() if count > 1] or [max(counts)]
        usual = firsts.most_common(1)[0][0] if firsts else min(several)
        return [line for line, level, _ in self.marked if level <= usual]

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    def add(self, text: str, *, level: int = 0, first: bool = False) -> None:
        """Append a paragraph, which may be of several lines; with a level it is a heading."""
        if level and text.strip():
            self.marked.append((len(self.lines) + 1, level, first))
            text = " ".join(text.split())
        self.lines += text.split("\n")


def read_docx(data: bytes) -> TextOfDocument:
    """Text of a Word file. Raises Unreadable.

    Everything that is shown: paragraphs, tables (cells joined by tabs), content controls, text
    boxes, insertions, the signs of formulas; then foot- and endnotes. Left out are deletions under
    "track changes", hidden text, readings above characters (ruby), headers and footers.
    """
    _check_archive(data)
    try:
        document = docx.Document(io.BytesIO(data))
        result = TextOfDocument(title=(document.core_properties.title or "").strip())
        styles = {s.style_id: str(s.name or "") for s in document.styles}
        _add_blocks(document.element.body, styles, result)
        for part in document.part.package.iter_parts():
            if re.fullmatch(r"/word/(?:foot|end)notes\.xml", str(part.partname)):
                _add_blocks(_tree(part.blob), styles, result)
    except (DefusedXmlException, zipfile.BadZipFile, Unreadable):
        raise
    except Exception as error:  # python-docx raises whatever a damaged part makes it raise
        raise Unreadable(f"no sound Word file: {type(error).__name__}: {error}"[:300]) from error
    return result


_W = "{" + docx.oxml.ns.nsmap["w"] + "}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_BREAKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_LEFT_OUT = {_FALLBACK, f"{_W}del", f"{_W}moveFrom", f"{_W}rt"}
_FORMULA_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_OFF = ("0", "false", "off")


def _add_blocks(parent: Any, styles: dict[str, str], result: TextOfDocument) -> None:
    """Append the paragraphs and tables inside an element."""
    for child in parent:
        if child.tag == f"{_W}p":
            result.add(_paragraph(child), level=_level(child, styles))
            for box in child.iter(f"{_W}txbxContent"):
                if not any(above.tag == _FALLBACK for above in box.iterancestors()):
                    _add_blocks(box, styles, result)
        elif child.tag == f"{_W}tr":
            cells = [c for c in child.iter(f"{_W}tc") if _row_of(c) is child]
            result.add("\t".join(" ".join(_cell(c).split()) for c in cells))
        elif child.tag not in _LEFT_OUT and isinstance(child.tag, str):
            _add_blocks(child, styles, result)


def _row_of(cell: Any) -> Any:
    return next((above for above in cell.iterancestors() if above.tag == f"{_W}tr"), None)


def _cell(cell: Any) -> str:
    return "\n".join(_paragraph(paragraph) for paragraph in cell.iter(f"{_W}p"))


def _paragraph(paragraph: Any) -> str:
    """Text of a paragraph without that of text boxes in it."""
    found: list[str] = []
    waiting = list(reversed(paragraph))
    while waiting:
        element = waiting.pop()
        if element.tag in (f"{_W}t", _FORMULA_TEXT):
            found.append(element.text or "")
        elif element.tag in _BREAKS:
            found.append(_BREAKS[element.tag])
        elif (
            element.tag not in _LEFT_OUT
            and element.tag != f"{_W}txbxContent"
            and not _is_hidden(element)
        ):
            waiting += reversed(element)
    return "".join(found)


def _is_hidden(run: Any) -> bool:
    vanish = run.find(f"{_W}rPr/{_W}vanish") if run.tag == f"{_W}r" else None
    return vanish is not None and vanish.get(f"{_W}val", "1") not in _OFF


def _level(paragraph: Any, styles: dict[str, str]) -> int:
    """Level of a heading; 0 for a paragraph that is none."""
    style = paragraph.find(f"{_W}pPr/{_W}pStyle")
    name = styles.get(style.get(f"{_W}val"), "") if style is not None else ""
    found = re.fullmatch(r"(?:heading|标题)\s*([1-3])", name, re.IGNORECASE)
    return int(found[1]) if found else 0


def read_epub(data: bytes) -> TextOfDocument:
    """Text of an EPUB file in the order of its spine. Raises Unreadable."""
    with _check_archive(data) as archive:
        names = set(archive.namelist())
        keys = "META-INF/encryption.xml"
        encrypted = _read(archive, keys) if keys in names else b""
        # Fonts are garbled in books that anyone may read; pages are not.
        if b"EncryptedKey" in encrypted or re.search(rb'URI="[^"]*html?"', encrypted):
            raise Unreadable("encrypted: the book is protected (DRM)")
        container = _member(archive, "META-INF/container.xml")
        places = [e.get("full-path", "") for e in container.iter() if tag_name(e) == "rootfile"]
        if not places:
            raise Unreadable("no EPUB file: META-INF/container.xml names no package")
        package = _member(archive, places[0])
        items = {e.get("id", ""): e for e in package.iter() if tag_name(e) == "item"}
        spine = [e.get("idref", "") for e in package.iter() if tag_name(e) == "itemref"]
        titles = [e.text or "" for e in package.iter() if tag_name(e) == "title"]
        result = TextOfDocument(title=titles[0].strip() if titles else "")
        pages = [item for item in items.values() if _is_page(item)]
        in_order = [items[identifier] for identifier in spine if identifier in items]
        if len(in_order) < len(spine) or not in_order:
            # A damaged order must not cost pages.
            in_order += [page for page in pages if page not in in_order]
        folder = posixpath.dirname(places[0])
        for item in in_order:
            if not _is_page(item):
                continue
            place = _place(folder, item.get("href", ""), names)
            try:
                _add_page(_read(archive, place), result)
            except DefusedXmlException:
                raise
            except Exception as error:  # one page never costs the book
                result.missing.append(f"{place} ({type(error).__name__}: {error})"[:200])
    if result.missing and not any(line.strip() for line in result.lines):
        raise Unreadable(f"none of its pages: {result.missing[0]}")
    return result


def _is_page(item: Element) -> bool:
    kind, href = item.get("media-type", "html"), item.get("href", "").lower()
    return "nav" not in item.get("properties", "").split() and (
        "html" in kind or (kind.startswith("text/") and href.endswith(("html", ".htm", ".xml")))
    )


def _place(folder: str, href: str, names: Collection[str]) -> str:
    """Name of the member that a page's address means, as well as it can be found."""
    href = href.partition("#")[0]
    asked = [posixpath.normpath(posixpath.join(folder, name)) for name in (unquote(href), href)]
    for place in asked:
        if place in names:
            return place
    alike = {unicodedata.normalize("NFC", name).casefold(): name for name in names}
    keys = [unicodedata.normalize("NFC", place).casefold() for place in asked]
    return next((alike[key] for key in keys if key in alike), asked[0])


def _add_page(data: bytes, result: TextOfDocument) -> None:
    """Append the text of one XHTML page."""
    if not data.strip():
        return
    body = _body(data)
    begun = len(result.lines)
    first = True
    for text, level in _blocks(body):
        if text.strip() or not level:
            result.add(text, level=level, first=first)
            first = first and not level
    if len(result.lines) > begun:
        result.add("")


def _body(data: bytes) -> Element:
    try:
        root = _tree(data)
    except (ParseError, ValueError) as error:
        if isinstance(error, DefusedXmlException):
            raise
        import lxml.html

        # Pages that are HTML but not XML; nothing is loaded, and entities are HTML's own.
        text, _ = decode_document(data, encoding_of_sample(data))
        text = _DECLARATION.sub("", text)
        parsed = lxml.html.document_fromstring(text, ensure_head_body=True)
        root = fromstring(lxml.html.tostring(parsed, method="xml", encoding="unicode"))
    return next((e for e in root.iter() if tag_name(e) == "body"), root)


def _blocks(body: Element) -> Iterator[tuple[str, int]]:
    """(text, level of a heading or 0) of the blocks of a page, in order."""
    headings = [e for e in body.iter() if tag_name(e) in ("h1", "h2", "h3")]
    marks = {id(e): f"\x00{n}\x00" for n, e in enumerate(headings)}
    left_out = ("rt", "rp", "script", "style", "head")
    text = "".join(pieces(body, marks, skipped=left_out, flowing=True))
    text = re.sub(r"[ \t]+(?=\n)|(?:\A|(?<=\n))[ \t](?=[^ \t\n])", "", text)
    text = re.sub(r"\n\s*\n(?=\s)|\n{3,}", "\n\n", text)
    parts = re.split(r"\x00(\d+)\x00", text)
    yield parts[0].strip("\n"), 0
    for number, part in zip(parts[1::2], parts[2::2], strict=True):
        words, _, rest = part.partition("\x01")
        yield words, int(tag_name(headings[int(number)])[1])
        yield rest.strip("\n"), 0


_ENTITIES = re.compile(rb"<!DOCTYPE[^>\[]*>", re.IGNORECASE)
_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml[^>]*\?>")
_NAMED = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d+|#[xX][0-9a-fA-F]+);)(\w+);")


def _tree(data: bytes) -> Element:
    """Parsed XML without its document type, whose entities are HTML's; own entities are refused."""
    text = _ENTITIES.sub(b"", data, count=1)
    try:
        root: Element = fromstring(text)
        return root
    except ParseError:
        import html

        plain, _ = decode_document(text, encoding_of_sample(text))
        decoded = _NAMED.sub(lambda m: html.escape(html.unescape(m.group())), plain)
        again: Element = fromstring(_DECLARATION.sub("", decoded))
        return again


def _member(archive: zipfile.ZipFile, name: str) -> Element:
    try:
        return _tree(_read(archive, name))
    except KeyError:
        raise Unreadable(f"no EPUB file: {name} is missing") from None
    except ParseError as error:
        raise Unreadable(f"malformed XML in {name}: {error}") from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(name)


def _check_archive(data: bytes) -> zipfile.ZipFile:
    """The archive, unless it would unpack to too much. Raises Unreadable."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        kind = " (an old .doc?)" if data.startswith(b"\xd0\xcf\x11\xe0") else ""
        raise Unreadable(f"no zip archive, as such files are{kind}: {error}") from error
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if any(member.flag_bits & 1 for member in members):
        raise Unreadable("encrypted")
    if len(members) > MAX_MEMBERS:
        raise Unreadable(f"{len(members):,} members, more than {MAX_MEMBERS:,}")
    if size > MAX_UNPACKED or (size > RATIO_FREE and size > MAX_RATIO * len(data)):
        raise Unreadable(f"unpacks to {size:,} bytes from {len(data):,}: refused as a zip bomb")
    return archive


def read_document(suffix: str, data: bytes) -> TextOfDocument:
    """Text of a Word or EPUB file, by its ending (`BINARY_SUFFIXES`). Raises Unreadable."""
    try:
        return read_docx(data) if suffix == ".docx" else read_epub(data)
    except DefusedXmlException as error:
        raise Unreadable(f"refused XML: {error!r}"[:300]) from error
    except (zipfile.BadZipFile, KeyError, ParseError, EOFError, NotImplementedError) as error:
        raise Unreadable(f"damaged: {type(error).__name__}: {error}"[:300]) from error
    except Unreadable:
        raise
    except Exception as error:  # zlib, lxml, recursion: one file never stops a run
        raise Unreadable(f"damaged: {type(error).__name__}: {error}"[:300]) from error
