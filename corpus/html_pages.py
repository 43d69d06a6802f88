"""Text of whole HTML pages and of fragments, by their DOM; of a page also its main content only.

selectolax parses and edits; resiliparse decides what is main content and lays the text out. List
items get a dash or a number, cells of a table a tab between them, code back-ticks. The edits before
keep what resiliparse would lose in Chinese pages (text nodes of one character, raised and lowered
digits, lists of short items) and take what it would keep (menus in table cells); see docs/adr/0039.
"""

import html
import re

from resiliparse.extract.html2text import extract_plain_text
from selectolax.lexbor import LexborHTMLParser, LexborNode

UNSEEN = (
    "script, style, noscript, template, svg, iframe, img, area, button, select, textarea, "
    "a.hash-link, a.headerlink"
)
FORMATTING = ["b", "strong", "i", "em", "u", "s", "span", "font", "big", "small", "mark", "abbr"]
LIST_TAG = re.compile(r"<(/?)(?:ul|ol|li)\b[^>]*>")
RAISED = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
LOWERED = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
NUMBER = re.compile(r"[0-9+-]{1,12}")
VARIABLE = re.compile(r"-?[A-Za-zα-ω]|[A-Za-z0-9α-ω]{1,4}(?:[+*/,-][A-Za-z0-9α-ω]{1,4}){1,3}")
"""A power or an index, not the `th` of 5th."""
COMPARISON = re.compile(
    r"<(?=[A-Za-z]\w{0,9}\s*[^\x00-\x7f])|<(?=[a-z]{1,2}(?:\s+[A-Za-z0-9_]+)+\s*>)"
)
"""In `x<a 且 b>c` and `x<a and b>c`: parsers take it for the beginning of a tag."""
JOINER, INDENT = "\u2060", "\ue0b7"
"""Makes two characters of one; a blank that is not to be lost."""
CJK = "\u3000-\u303f\u3400-\u9fff\uff00-\uffef"
LINE_END = re.compile(rf"(?<=[{CJK}])[ \t]*[\r\n]\s*(?=[{CJK}])")
"""Browsers make a blank of it; between Chinese characters none is meant."""
FOOTER = re.compile(
    r"(?:\n[^\n]{0,99}(?:ICP[备证]|公网安备|版权所有|All Rights Reserved|Powered by)[^\n]{0,99}"
    r"|\n[ \t]*)+\Z",
    re.I,
)
"""Last lines of a page: its registration, its owner."""
MAX_DEPTH = 300
"""Elements within one another; deeper nests take parsers quadratic time and are no pages."""
ELEMENT = re.compile(r"<(/?)([a-z][a-z0-9]*)[^<>]*>", re.I)
NOT_NESTED_NAMES = """
    p li dt dd tr td th option tbody thead tfoot br hr wbr img input meta link area base col embed
    source param track
"""
NOT_NESTED = frozenset(NOT_NESTED_NAMES.split())
"""Elements that nothing, or whatever comes next, closes."""


def is_too_deep(text: str) -> bool:
    """True for a text whose elements stand within one another by the hundred."""
    depth = 0
    for end, name in ELEMENT.findall(text):
        if name.lower() not in NOT_NESTED:
            depth += -1 if end else 1
            if depth > MAX_DEPTH:
                return True
    return False


def script(name: str, text: str) -> str | None:
    """A power or an index (`sup`, `sub`) as characters of plain text; None for other text."""
    if NUMBER.fullmatch(text):
        return text.translate(RAISED if name == "sup" else LOWERED)
    if VARIABLE.fullmatch(text):
        return ("^" if name == "sup" else "_") + (text if len(text) == 1 else f"({text})")
    return None


def page_text(text: str, *, main_content: bool) -> str:
    """Text of a page or a fragment.

    Args:
        text: HTML, at most MAX_DEPTH deep.
        main_content: without menus, navigation and footers; all text where nothing else is found.
    """
    tree = LexborHTMLParser(COMPARISON.sub("&lt;", text))
    if tree.body is None:
        return ""
    for node in _inner_first(tree, f"{UNSEEN}, a[class^=skip]" if main_content else UNSEEN):
        node.decompose()
    for node in _inner_first(tree, "sup, sub"):
        if (written := script(node.tag or "", _text(node).strip())) is not None:
            node.replace_with(written)
    _mark_code(tree)
    if main_content:
        _drop_menu_cells(tree)
    _mark_list_items(tree, with_links=not main_content)
    tree.unwrap_tags(FORMATTING)
    tree.body.merge_text_nodes()
    _mend_text_nodes(tree.body)
    found = _layout(tree, main_content=main_content)
    return found or _layout(tree, main_content=False)


def _text(node: LexborNode) -> str:
    return str(node.text(deep=True))


def _inner_first(tree: LexborHTMLParser, selector: str) -> list[LexborNode]:
    """Matching elements, those within others before them.

    To take an element away frees those within it: touched afterwards, they would crash the process.
    """
    return list(reversed(tree.css(selector)))


def _layout(tree: LexborHTMLParser, *, main_content: bool) -> str:
    text = extract_plain_text(
        tree.html or "",
        preserve_formatting=True,
        main_content=main_content,
        alt_texts=True,  # without them it drops whole figures; there are no images any more
        list_bullets=False,
    )
    text = re.sub(r"\t+", "\t", text.replace(INDENT, " ").replace(JOINER, "").replace("\xa0", " "))
    text = re.sub(r"(?<![ \t])[ \t]+$", "", text, flags=re.M)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return (FOOTER.sub("", text) if main_content else text).strip("\n")


def _mark_code(tree: LexborHTMLParser) -> None:
    """Fences around blocks of code, back-ticks around code in a line."""
    for block in _inner_first(tree, "pre"):
        for line_end in block.css("br"):
            line_end.replace_with("\n")
        code = _text(block).strip("\n")
        # Some pages put all their prose into <pre>.
        if code.strip() and len(re.findall(f"[{CJK}]", code)) < 0.4 * len(code):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
            # A parser drops the first line end of <pre>.
            code = f"\n{fence}\n{code}\n{fence}"
        block.inner_html = html.escape(code, quote=False)
    for inline in _inner_first(tree, "code"):
        code = _text(inline)
        if code.strip() and "`" not in code and "\n" not in code:
            inline.replace_with(f"`{code}`")


def _drop_menu_cells(tree: LexborHTMLParser) -> None:
    """Menus of pages that are laid out by tables: cells of links."""
    for cell in _inner_first(tree, "td"):
        links = cell.css("a")
        if len(links) >= 3 and cell.css_first("td td") is None and _link_share(cell) > 0.7:
            cell.decompose()


def _link_share(node: LexborNode) -> float:
    """Share of an element's text that is links."""
    size = len(_text(node).strip())
    return sum(len(_text(link)) for link in node.css("a")) / max(1, size)


def _mark_list_items(tree: LexborHTMLParser, *, with_links: bool) -> None:
    """A dash or a number before items, and no list around them: short ones look like menus.

    Lists of links may be menus and stay lists, but for those of an article.
    """
    for items in _inner_first(tree, "ul, ol"):
        if items.parent is None or _inside(items, ("nav", "pre")):
            continue
        content = _inside(items, ("article",)) and not _inside(items, ("aside", "footer", "header"))
        if with_links or content or _link_share(items) < 0.5:
            indent = INDENT * (2 * _inside(items, ("ul", "ol")))
            number = 0
            for item in items.iter():
                if item.tag == "li" and (first := _first_text(item)) is not None:
                    number += 1
                    first.insert_before(indent + (f"{number}. " if items.tag == "ol" else "- "))
            if (plain := _as_blocks(items)) is not None:
                items.replace_with(plain)


def _first_text(item: LexborNode) -> LexborNode | None:
    """The node at which the text of an item begins."""
    node = item.child
    while node is not None:
        if node.is_text_node and not _text(node).strip():
            node = node.next
        elif node.tag in ("p", "div") and node.child is not None:
            node = node.child
        else:
            break
    return node


def _as_blocks(items: LexborNode) -> LexborNode | None:
    """The same without list elements."""
    body = LexborHTMLParser(LIST_TAG.sub(r"<\1div>", items.html or "")).body
    return None if body is None else body.child


def _inside(node: LexborNode, names: tuple[str, ...]) -> int:
    """Number of elements of these names around a node."""
    count, parent = 0, node.parent
    while parent is not None:
        count += parent.tag in names
        parent = parent.parent
    return count


def _mend_text_nodes(body: LexborNode) -> None:
    for node in [*body.traverse(include_text=True)]:
        if node.tag == "-text" and (text := node.text_content):
            mended = text
            if "\n" in text and node.parent is not None and node.parent.tag != "pre":
                mended = LINE_END.sub("", text)
            if len(mended.strip()) == 1 and not mended.isascii():
                mended += JOINER
            if mended != text:
                node.replace_with(mended)
