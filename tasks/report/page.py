"""Markdown to one HTML file that needs nothing else: styles inline, pictures as data URIs."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from tasks.report.language import DETAILS, LANGUAGES, Language, Writer
from tasks.report.trace.numbers import ANCHOR

HERE = Path(__file__).parent


def page_name(language: Language) -> str:
    """File of the page in a language: report.html in English, report.zh.html in Chinese."""
    return "report.html" if language == "en" else f"report.{language}.html"


def html_page(
    markdown: str, *, title: str, folder: Path, language: Language = "en", switch: bool = False
) -> str:
    """Make the page. HTML in the text is shown, not used.

    Args:
        markdown: its text.
        title: in the browser's tab.
        folder: pictures are relative to it.
        language: of the text.
        switch: True puts a link to the page in each other language on top.
    """
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    body = _body(parser, markdown, {"folder": folder, "anchors": set()})
    others = [other for other in LANGUAGES if other != language] if switch else []
    links = "".join(
        f'<a href="{page_name(other)}" lang="{other}" hreflang="{other}">'
        f"{html.escape(Writer(other)('page.name'))}</a>"
        for other in others
    )
    page = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=html.escape(title),
        language=language,
        switch=f"<nav>{links}</nav>" if links else "",
        body=body,
    )


def _body(parser: MarkdownIt, markdown: str, env: dict[str, Any]) -> str:
    """Render the text; HTML in it is shown, but for lines that open and close details."""
    begin, end, close = DETAILS
    found, text = [], ""
    for line in markdown.splitlines():
        opens = line.startswith(begin) and line.endswith(end)
        if not opens and line != close:
            text += f"{line}\n"
            continue
        found.append(parser.render(text, env))
        text = ""
        if opens:
            title = parser.renderInline(line.removeprefix(begin).removesuffix(end), env)
            found.append(f"{begin}{title}{end}\n")
        else:
            found.append(f"{close}\n")
    return "".join([*found, parser.render(text, env)])


class _Renderer(RendererHTML):
    """Wide tables scroll; a picture brings its dark twin and is part of the file; a number is its
    own anchor."""

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        href = str(token.attrs.get("href", ""))
        if href.startswith(f"#{ANCHOR}"):
            token.attrs["class"] = "number"
            token.attrs["data-id"] = href.removeprefix(f"#{ANCHOR}")
            if href not in env["anchors"]:  # a number may stand in two tables
                env["anchors"].add(href)
                token.attrs["id"] = href[1:]
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<div class="scroll"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</table></div>\n"

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        light = env["folder"] / str(tokens[idx].attrs["src"])
        dark = light.with_name(f"{light.stem}-dark.png")
        alt = html.escape(tokens[idx].content)
        return (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark)}">'
            f'<img src="{_data_uri(light)}" alt="{alt}"></picture>'
        )


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
