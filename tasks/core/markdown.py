"""Tables in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

NOT_RUN = "not run"


def markdown_table(rows: Sequence[Mapping[str, Any]], *, right: Sequence[str] = ()) -> str:
    """Format rows as a table with the columns of the first row, those in `right` aligned right."""
    if not rows:
        return f"*{NOT_RUN}.*"
    columns = list(rows[0])
    lines = [
        _line(columns),
        _line(["---:" if column in right else "---" for column in columns]),
        *(_line([str(row.get(column, "")) for column in columns]) for row in rows),
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
