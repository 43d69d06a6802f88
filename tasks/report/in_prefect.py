"""The report as a Prefect artifact: one text, with its pictures inside."""

import base64
import re
from pathlib import Path

MAX_PICTURES = 2 * 1024**2
"""Bytes of all pictures in an artifact, which is one row of Prefect's database."""

NUMBER = re.compile(r"\[([^\]\n]*)\]\(#n-[^)\n]*\)")
"""A number with its id, which is a link within the report's own page."""
PICTURE = re.compile(r"!\[([^\]\n]*)\]\(([^)\n:]+\.png)\)")


def artifact_text(text: str, folder: Path, page: str) -> str:
    """Markdown of a report for Prefect.

    text: Markdown of the report; folder: with its pictures; page: where the whole report is.
    """
    left = MAX_PICTURES

    def embedded(found: re.Match[str]) -> str:
        nonlocal left
        path = folder / found[2]
        if not path.is_file() or (size := path.stat().st_size) > left:
            return f"*{found[1]}: see the report's page*"
        left -= size
        data = base64.b64encode(path.read_bytes()).decode()
        return f"![{found[1]}](data:image/png;base64,{data})"

    head = f"The page itself, with the origin of each number: `{page}`\n\n"
    return head + PICTURE.sub(embedded, NUMBER.sub(r"\1", text))
