"""HTML made text: whole pages to their main content, fragments without tags, the rest as it is.

    a page        begins with `<html>`, `<!doctype html>`, …        its main content, by its DOM
    a fragment    all its text stands in elements                   its text, by its DOM
    text          has tags here and there                           these tags go
                  has none, or speaks of HTML                       untouched

In text a tag counts as HTML if it is closed (`<b>…</b>`), never closed (`<br>`) or has attributes;
`x<a and b>c`, `List<Object>` and `vector<a>` do not. Fenced and inline code is not looked at, and
tags that the text speaks of stay.

Data-Juicer's `clean_html_mapper` parses every text as HTML: after `a <b` or `<img` the rest of the
document is gone, and `<br>` and `<p>` leave no line break (docs/adr/0039).
"""

import bisect
import html
import re
from collections import defaultdict
from typing import NamedTuple

from data_juicer.ops.base_op import OPERATORS, Mapper

from corpus.html_pages import is_too_deep, page_text, script

BLOCK_NAMES = """
    address article aside blockquote body br caption center dd details dialog div dl dt fieldset
    figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hr html legend li main
    menu nav noscript ol optgroup option p pre section select summary table tbody tfoot thead
    title tr ul
"""
INLINE_NAMES = """
    a abbr acronym audio b base basefont bdi bdo big button canvas cite code col colgroup data
    datalist del dfn em embed font frame i iframe img input ins kbd label link map mark marquee
    meta meter nobr object output param picture progress q rp rt ruby s samp small source span
    strike strong sub sup time track tt u var video wbr td th
"""
BLOCKS = frozenset(BLOCK_NAMES.split())
NAMES = BLOCKS | frozenset(INLINE_NAMES.split())
ALONE = frozenset(("br", "hr", "wbr"))
SOURCE_NAMES = "html head body title meta link form input button label select nav header footer"
OF_SOURCE = frozenset((SOURCE_NAMES + " main").split())
"""Elements of source that people show; articles that were cut out of pages have others."""
OPEN_ENDED = frozenset(["p", "li", "dt", "dd", "tr", "td", "th", "option", "tbody", "thead"])
"""Elements that the next one closes."""
BARE = (
    "allowfullscreen|async|autoplay|checked|compact|controls|defer|disabled|hidden|loop|multiple"
    "|muted|noresize|noshade|nowrap|readonly|required|selected"
)
"""Attributes without a value; other words in a tag make it a comparison."""
TAG = re.compile(
    r"<(?P<end>/?)(?P<name>[A-Za-z][A-Za-z0-9]*)(?P<attributes>(?:\s+(?:[A-Za-z_:@][\w:.-]*\s*=\s*"
    rf"""(?:"[^"<]*"|'[^'<]*'|[^\s"'<>]+)|(?:{BARE})(?![\w=-])))*+)\s*/?>"""
)
PAGE = re.compile(
    r"\s*(?:<\?xml[^<>]*>\s*)?(?:<!--(?:(?!-->).)*+-->\s*)*+<(?:!doctype\s+html|html|head|body)\b",
    re.I | re.S,
)
BEGUN = re.compile(r"[^<>]*=|[^<>]*>\s*<|[^<>]*\bdtd", re.I)  # behind `<html`
ESCAPED = re.compile(
    r"\s*&lt;(p|div|span|table|ul|h[1-6])\b.{0,999}&gt;.*&lt;/\1&gt;\s*\Z", re.S | re.I
)
"""A fragment that was escaped once too often."""
LANDMARK = re.compile(
    r"<(?:nav|header|footer|body)\b"
    r"|<\w+ (?:id|class)=[\"']?(?:nav|menu|header|footer|sidebar)(?:bar|igation)?\b",
    re.I,
)
"""Parts that pages have and pieces of an article do not."""
MARKDOWN = re.compile(r"^(?:#{1,6} |[-*+] |```|~~~)|\]\(|\*\*", re.M)
ABOUT = re.compile(
    r"(?<![A-Za-z0-9_./`<=\"'-])(?:x?html5?|xml|jsx|css|vue)(?![A-Za-z0-9_/=\"'-])|源码|写法|这样写"
    r"|(?:以下|下面|如下|示例|完整|参考|前端|这段)[是的]?[^\n，。<]{0,6}代码|代码(?:如下|示例)|\bmarkup\b",
    re.I,
)
"""Words of a text that has tags for its subject."""
TASK = re.compile(r"\s*(?:请|写|帮|用|编写|创建|实现|生成|给|设计|制作)")
"""Begin of what is no title."""
LEADS_TO = re.compile(r"[^\n]{0,6}|[^\n]{0,60}[:：]\s{0,4}")
"""Text between such a word and the tag that it is about."""
NAMED = (
    re.compile(r"(?:标签|标记|return|tags?|elements?)[：:为 ]{0,2}[“‘\"'「（(]?\Z", re.I),
    re.compile(r"[”’\"'」）)]?[ ]?(?:标签|标记|元素|属性|tags?\b|elements?\b)", re.I),
)
PLACED = re.compile(r"(?:[用在]|元素|属性|<\w+> ?[和与或及]) ?\Z")
JOINED = re.compile(r" ?[和与或及] ?</?[a-z]\w*>")
QUOTED = (re.compile(r"[“‘\"'「『（(《【]\Z"), re.compile(r"[”’\"'」』）)》】]"))
"""Text before and behind a tag that is spoken of."""
SPELT = re.compile(r"空格|符号|字符|转义|实体|表示|写成|写作|编码|entit|escape", re.I)
"""Words near an entity that is spoken of."""
ENTITY = re.compile(r"&(?:amp;)*(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
ADDRESS = re.compile(r"[=(,*+|]\s{0,4}\Z")
"""In C an ampersand behind one of these is no entity: `p = &sum;`."""
ESCAPES = ("&nbsp;", "&lt;", "&gt;", "&amp;", "&quot;", "&apos;", "&#")
START = re.compile(r"```|^~~~|`|<!--|<!doctype\b[^<>]{0,300}>|<(?=[A-Za-z/])|^\|", re.M | re.I)
HIDDEN = ("script", "style", "svg")
"""Elements whose text browsers do not show."""
BREAK, ITEM = "\ue0b5", "\ue0b6"
"""Stand for the edges of blocks and items until the white space around them is known."""
# White space is taken from its start: to try every blank of a long run would be quadratic.
BREAKS = re.compile(rf"(?<!\s)\s*+(?:[{BREAK}{ITEM}]\s*+)+")


@OPERATORS.register_module("html_to_text_mapper")
class HtmlToTextMapper(Mapper):
    """Makes HTML text, keeps line breaks, lists and code, and leaves comparisons alone."""

    _batched_op = True

    def __init__(self, main_content: bool = False, *args: object, **kwargs: object) -> None:
        """Choose what is kept of whole pages.

        :param main_content: only their main content, without menus, navigation and footers
        """
        super().__init__(*args, **kwargs)
        self.main_content = main_content

    def convert(self, text: str) -> str:
        """One text without HTML. A text that has neither tag nor entity comes back as it is."""
        if "<" not in text and "&" not in text:
            return text
        if ESCAPED.match(text):
            text = html.unescape(text)
        begin = _page_begin(text)
        if (begin >= 0 or _is_fragment(text)) and not is_too_deep(text):
            main = self.main_content and (begin >= 0 or bool(LANDMARK.search(text)))
            before, page = text[: max(0, begin)].strip(), text[max(0, begin) :]
            return f"{before}\n{page_text(page, main_content=main)}".lstrip("\n")
        return _Pieces(text).without_tags()

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Convert every text of a batch."""
        samples[self.text_key] = [self.convert(text) for text in samples[self.text_key]]
        return samples


class _Tag(NamedTuple):
    begin: int
    end: int
    name: str
    """In small letters; `!` for what is not shown (a comment, a script, a document type), and with
    a `?` before it what HTML has not."""
    closes: bool
    attributes: bool


def _name(tag: re.Match[str] | None) -> str:
    """Name of the element, if HTML has it; types and components have capitals: `List<Object>`."""
    if tag is None:
        return ""
    name = tag["name"]
    return name.lower() if name.lower() in NAMES and (name.islower() or name.isupper()) else ""


def _page_begin(text: str) -> int:
    """Begin of a page, which a title may stand before; -1 without one."""
    page = PAGE.search(text, 0, 400)
    if page is None:
        return -1
    title = text[: page.start()]
    # `<html> 是根元素，<body> 里放内容。` speaks of them.
    if not (BEGUN.match(text, page.end()) or _ends_as_page(text)):
        return -1
    # Pages in what people write are examples.
    about = ABOUT.search(title) or TASK.match(title) or any(mark in title for mark in "<`：:。")
    return -1 if about or (title and not _ends_as_page(text)) else page.start()


def _ends_as_page(text: str) -> bool:
    return text.rstrip()[-9:].lower().endswith(("</html>", "</body>"))


def _is_fragment(text: str) -> bool:
    """True if all text stands in elements: three tags or more, the first of a block."""
    text = text.strip()
    if text[:1] + text[-1:] != "<>" or PAGE.match(text) or MARKDOWN.search(text):
        return False
    if _name(TAG.match(text)) not in BLOCKS - ALONE or not _name(TAG.match(text, text.rfind("<"))):
        return False
    names = [_name(tag) for tag in TAG.finditer(text)]
    return len(names) >= 3 and names.count("") < 0.2 * len(names)


class _Pieces:
    """A text with tags here and there, taken to pieces."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.code: list[tuple[int, int]] = []
        self.tags: list[_Tag] = []
        self.missing: set[str] = set()
        at = 0
        while (start := START.search(text, at)) is not None:
            at = self._piece(start)

    def without_tags(self) -> str:
        """The text without tags that are HTML, and with characters for entities."""
        spans: list[tuple[int, int, str | None]] = [(*span, None) for span in self.code]
        skip = -1
        for number in (html_tags := self._html()):
            tag = self.tags[number]
            if number == skip:
                continue
            replacement, end = _replacement(tag), tag.end
            following = self.tags[number + 1] if number + 1 in html_tags else None
            if tag.name in ("sup", "sub") and following and following.name == tag.name:
                written = script(tag.name, self.text[tag.end : following.begin])
                if written is not None:
                    replacement, end, skip = written, following.end, number + 1
            spans.append((tag.begin, end, replacement))
        pieces, at = [], 0
        for begin, end, new in sorted(spans, key=lambda span: span[0]):
            pieces += [self._unescaped(at, begin), self.text[begin:end] if new is None else new]
            at = end
        text = "".join([*pieces, self._unescaped(at, len(self.text))])
        if not html_tags:
            return text
        return BREAKS.sub(lambda run: _break(run, last=run.end() == len(text)), text)

    def _piece(self, start: re.Match[str]) -> int:
        """Enter the piece that begins here; where to go on."""
        text, at, mark = self.text, start.start(), start[0]
        if mark in ("```", "~~~"):
            end = self._find("\n~~~" if mark == "~~~" else mark, at + 3)
            if end < 0 and mark == "~~~":  # a long wave
                return at + 3
            self.code.append((at, end if end > 0 else len(text)))
            return self.code[-1][1]
        if mark == "`":
            end = self._find(mark, at + 1)
            if end < 0 or text.find("\n", at, end) >= 0:
                return at + 1
            self.code.append((at, end))
            return end
        if mark == "|":
            # A row of a Markdown table needs one line, `<br>` included.
            end = text.find("\n", at) if self._find("\n", at) > 0 else len(text)
            if text[at + 1 : end].rstrip().endswith("|"):
                self.code.append((at, end))
            return end
        if mark == "<!--":
            return self._hide(at, self._find("-->", at))
        if mark[1:2] == "!":
            return self._hide(at, start.end())
        tag = TAG.match(text, at)
        if tag is None:
            return at + 1
        name = tag["name"].lower()
        if name in HIDDEN and not tag["end"] and not NAMED[1].match(text, tag.end()):
            return self._hide(at, self._find(f"</{tag['name']}>", at))
        # Of XML and components, pairs count: they are examples.
        name = name if _name(tag) else f"?{tag['name']}"
        self.tags.append(
            _Tag(at, tag.end(), name, bool(tag["end"]), bool(tag["attributes"].strip()))
        )
        return tag.end()

    def _hide(self, begin: int, end: int) -> int:
        if end < 0:
            return begin + 1
        self.tags.append(_Tag(begin, end, "!", False, False))
        return end

    def _find(self, ending: str, at: int) -> int:
        """End of the next of these, or -1. If one is missing, it is not looked for again: to search
        from every beginning would take quadratic time."""
        found = -1 if ending in self.missing else self.text.find(ending, at)
        if found < 0:
            self.missing.add(ending)
            return -1
        return found + len(ending)

    def _html(self) -> dict[int, None]:
        """Numbers of the tags that are HTML, in order."""
        partner, opened = {}, defaultdict(list)
        for number, tag in enumerate(self.tags):
            if not tag.closes:
                opened[tag.name].append(number)
            elif opened[tag.name]:
                partner[number] = opened[tag.name].pop()
                partner[partner[number]] = number
        examples = self._examples(partner)
        found, doubtful = [], []
        for number, tag in enumerate(self.tags):
            if number in examples or tag.name.startswith("?"):
                continue
            certain = tag.name == "!" or tag.name in ALONE or tag.attributes or tag.closes
            if certain or number in partner or self._is_open_ended(tag):
                found.append(number)
            else:
                doubtful.append(number)
        if found:  # a slip, such as <b> for </b>
            found += [number for number in doubtful if not self._is_apart(self.tags[number])]
        return dict.fromkeys(self._without_samples(sorted(found)))

    def _is_open_ended(self, tag: _Tag) -> bool:
        """True for a tag that needs no other, but for `a<p>b`."""
        if tag.name not in OPEN_ENDED:
            return False
        before, behind = self.text[tag.begin - 1 : tag.begin], self.text[tag.end : tag.end + 1]
        return not (re.match(r"[A-Za-z0-9_)\]]", before) and re.match(r"[!-;=-~ ]", behind))

    def _is_apart(self, tag: _Tag) -> bool:
        """True beside a letter or a blank."""
        before, behind = self.text[tag.begin - 1 : tag.begin], self.text[tag.end : tag.end + 1]
        return any(
            side.isspace() or (side.isascii() and side.isalnum()) for side in (before, behind)
        )

    def _examples(self, partner: dict[int, int]) -> set[int]:
        """Numbers of the tags that the text speaks of."""
        abouts = [about.end() for about in ABOUT.finditer(self.text)]
        examples: set[int] = set()
        for number, tag in enumerate(self.tags):
            before = self.text[max(0, tag.begin - 12) : tag.begin]
            behind = self.text[tag.end : tag.end + 12]
            if tag.name.startswith("?"):
                examples |= {number} if number in partner else set()
                continue
            bare = not tag.attributes and tag.name != "!"
            lonely = bare and number not in partner
            last = bisect.bisect_right(abouts, tag.begin) - 1
            spoken_of = (
                (bare and QUOTED[0].search(before) and QUOTED[1].match(behind))
                or (bare and before.endswith(('"', "'")))
                or (bare and not tag.closes and NAMED[0].search(before))
                or (lonely and PLACED.search(before))
                or (lonely and JOINED.match(behind))
                or NAMED[1].match(behind)
                or (
                    tag.name not in ALONE
                    and last >= 0
                    and tag.begin - abouts[last] < 66
                    and LEADS_TO.fullmatch(self.text, abouts[last], tag.begin)
                )
            )
            # What follows an example closely belongs to it.
            goes_on = number - 1 in examples and tag.begin - self.tags[number - 1].end < 60
            if goes_on and tag.name in ALONE:
                following = self.tags[number + 1 : number + 2]
                goes_on = any(f.name not in ALONE and f.begin - tag.end < 60 for f in following)
            if spoken_of or goes_on:
                examples.add(number)
        return examples | {partner[number] for number in examples if number in partner}

    def _without_samples(self, found: list[int]) -> list[int]:
        """Tags that are no part of a piece of source that text leads to: four tags or more, on
        lines of their own, with less text than tags and only short text between them."""
        runs: list[list[int]] = []
        for number in found:
            begin = self.tags[number].begin
            if runs and len(self.text[self.tags[runs[-1][-1]].end : begin].strip()) <= 40:
                runs[-1].append(number)
            else:
                runs.append([number])
        return [number for run in runs if not self._is_sample(run) for number in run]

    def _is_sample(self, run: list[int]) -> bool:
        begin, end = self.tags[run[0]].begin, self.tags[run[-1]].end
        before = self.text[max(0, begin - 80) : begin]
        if not before.strip() or not before.rstrip(" ").endswith("\n"):
            return False
        tags = sum(self.tags[n].end - self.tags[n].begin for n in run)
        return sum(self.tags[n].name in OF_SOURCE for n in run) >= 4 and tags > (end - begin) / 2

    def _unescaped(self, begin: int, end: int) -> str:
        text = self.text[begin:end]
        if "&" not in text:
            return text
        return ENTITY.sub(lambda entity: self._character(entity, begin), text)

    def _character(self, entity: re.Match[str], offset: int) -> str:
        begin, end = entity.start() + offset, entity.end() + offset
        before, behind = self.text[max(0, begin - 10) : begin], self.text[end : end + 6]
        literal = before.endswith(('"', "'")) and behind.startswith(before[-1])
        if literal or SPELT.search(before) or SPELT.search(behind):
            return entity[0]
        if not entity[0].startswith(ESCAPES) and ADDRESS.search(before):
            return entity[0]
        escaped, text = "", entity[0]
        while text != escaped:
            escaped, text = text, html.unescape(text)
        return text


def _replacement(tag: _Tag) -> str:
    if tag.name in ("td", "th"):
        return "" if tag.closes else "\t"
    if tag.name == "li" and not tag.closes:
        return ITEM
    return BREAK if tag.name in BLOCKS else ""


def _break(run: re.Match[str], *, last: bool) -> str:
    """Replacement of the edges of blocks and of the white space around them: one line end, a dash
    before an item. At the beginning and the end of a document a block needs no line end."""
    behind = re.split(f"[{BREAK}{ITEM}]", run[0])[-1]
    indent = behind.rpartition("\n")[2] if "\n" in behind else ""
    begin = "" if last or not run.start() else "\n"
    return begin + ("- " if ITEM in run[0] else indent)
