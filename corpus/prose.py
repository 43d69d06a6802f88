"""The prose of a text, apart from the code in it."""

import re
from collections.abc import Callable

CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.S)
"""Fenced blocks, one that is not closed to the end; inline code."""


def change_prose(text: str, change: Callable[[str], str]) -> str:
    """The text with each piece of prose between its code changed; code stays to the byte."""
    if "`" not in text:
        return change(text)
    pieces = CODE.split(text)
    pieces[::2] = [change(piece) for piece in pieces[::2]]
    return "".join(pieces)
