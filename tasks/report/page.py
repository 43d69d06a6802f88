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

HERE = Path(__file__).parent


def html_page(markdown: str, *, title: str, folder: Path) -> str:
    """Make the page. Pictures are relative to `folder`; HTML in the text is shown, not used."""
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    body = parser.render(markdown, {"folder": folder})
    page = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return page.substitute(title=html.escape(title), body=body)


class _Renderer(RendererHTML):
    """Wide tables scroll; a picture brings its dark twin and is part of the file."""

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
