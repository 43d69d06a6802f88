"""HTML tags out of text that has some, line breaks where they stood; everything else untouched.

Data-Juicer's `clean_html_mapper` parses every text as HTML: after `a <b` or `<img` the rest of the
document is gone, `List<String>` loses its type, samples of HTML inside fenced code vanish, and
`<br>` and `<p>` leave no line break. Here only tags with names that HTML has are taken out.
"""

import html
import re

from data_juicer.ops.base_op import OPERATORS, Mapper

BLOCKS = (
    "address article aside blockquote body br caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hr html legend li main "
    "menu nav noscript ol optgroup option p pre section select summary table tbody tfoot thead "
    "title tr ul"
)
CELLS = "td th"
INLINE = (
    "a abbr acronym audio b base basefont bdi bdo big button canvas cite code col colgroup data "
    "datalist del dfn em embed font frame i iframe img input ins kbd label link map mark marquee "
    "meta meter nobr object output param picture progress q rp rt ruby s samp small source span "
    "strike strong sub sup time track tt u var video wbr"
)
ATTRIBUTE = r"""\s+[A-Za-z_:@][\w:.-]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))?"""


def _tag(names: str) -> str:
    # The names with their attributes, or nothing but the name: `a <b and c> d` has no tag.
    alternatives = "|".join(names.split())
    return rf"</?(?:{alternatives})(?:{ATTRIBUTE})*+\s*/?>"


FENCED = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
INVISIBLE = (
    (re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.I), "</script"),
    (re.compile(r"<style\b.*?</style\s*>", re.DOTALL | re.I), "</style"),
    (re.compile(r"<svg\b.*?</svg\s*>", re.DOTALL | re.I), "</svg"),
    (re.compile(r"<!--.*?-->", re.DOTALL), "-->"),
)
"""Elements that browsers do not show, each with its ending."""
DOCTYPE = re.compile(r"<!doctype\b[^<>]*>", re.I)
SCRIPTS = re.compile(r"<(sup|sub)>([0-9+-]+)</\1>", re.I)
RAISED = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
LOWERED = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
# White space is taken from its start: to try every blank of a long run would be quadratic.
BLOCK_RUN = re.compile(rf"(?<!\s)\s*+(?:{_tag(BLOCKS)}\s*+)+", re.I)
ITEM = re.compile(r"<li\b", re.I)
CELL = re.compile(rf"{_tag(CELLS)}", re.I)
INLINE_TAG = re.compile(rf"{_tag(INLINE)}", re.I)
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


@OPERATORS.register_module("html_to_text_mapper")
class HtmlToTextMapper(Mapper):
    """Takes HTML tags out, keeps line breaks, and leaves code and comparisons alone."""

    _batched_op = True

    def convert(self, text: str) -> str:
        """One text without tags. A text that has neither tag nor entity comes back as it is."""
        if "<" not in text and "&" not in text:
            return text
        parts = FENCED.split(text)
        # Pieces of code stand at odd places; at a document's start a block needs no line break.
        parts[::2] = [_convert(part, first=i == 0) for i, part in enumerate(parts[::2])]
        return "".join(parts)

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Convert every text of a batch."""
        samples[self.text_key] = [self.convert(text) for text in samples[self.text_key]]
        return samples


def _convert(text: str, *, first: bool) -> str:
    if "<" in text:
        text = DOCTYPE.sub("", _visible(text))
        text = SCRIPTS.sub(_script, text)
        text = CELL.sub(" ", text)
        text = INLINE_TAG.sub("", text)
        text = BLOCK_RUN.sub(lambda run: _break(run, first=first and not run.start()), text)
    return ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _visible(text: str) -> str:
    for pattern, ending in INVISIBLE:
        # Behind the last ending nothing can match, and looking for it would be quadratic.
        end = text.lower().rfind(ending) + len(ending) + 1
        text = pattern.sub("", text[:end]) + text[end:]
    return text


def _script(match: re.Match[str]) -> str:
    return match[2].translate(RAISED if match[1].lower() == "sup" else LOWERED)


def _break(run: re.Match[str], *, first: bool) -> str:
    """Replacement of the tags between two blocks: one line break, with a dash before an item."""
    return ("" if first else "\n") + ("- " if ITEM.search(run[0]) else "")
