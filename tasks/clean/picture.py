"""One bar for each source: the shares of its bytes that were kept, cut out of documents that were
kept, and dropped with documents, by operator.

Labels are English, so that no font for Chinese is needed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from common.disk import format_bytes
from tasks.core.theme import LIGHT, save, style

NAMED = 7
"""Operators with a colour of their own; the others share one."""
KEPT = "kept"
CUT = "cut out of documents"
REST = "dropped by other operators"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a ledger's rows into a PNG."""
    with mpl.rc_context(style(LIGHT)):
        figure = _figure(rows)
        save(figure, path)


def _figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    first: dict[str, Mapping[str, Any]] = {}
    last: dict[str, Mapping[str, Any]] = {}
    lost: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for row in rows:
        source, operator = row["source"], row["operator"]
        first.setdefault(source, row)
        last[source] = row
        losses = lost.setdefault(source, Counter())
        losses[operator] += row["bytes_dropped"]
        losses[CUT] += row["bytes_edited"]
        total[operator] += row["bytes_dropped"]
    bytes_in = {source: max(1, row["bytes_in"]) for source, row in first.items()}
    named = [operator for operator, count in total.most_common(NAMED) if count]
    sources = sorted(first, key=lambda s: -last[s]["bytes_kept"] / bytes_in[s])
    figure = Figure(figsize=(10, 1.8 + 0.32 * len(sources)))
    axes = figure.subplots()
    start = [0.0] * len(sources)
    colours = {KEPT: "#c9d6e3", CUT: "#7d92a8"}
    colours |= dict(zip(named, LIGHT.series, strict=False)) | {REST: "#b3bac2"}
    for label, colour in colours.items():
        shares = [
            100 * max(0, _bytes(label, last[s]["bytes_kept"], lost[s], named)) / bytes_in[s]
            for s in sources
        ]
        if any(shares):
            name = label.removesuffix("_filter").removesuffix("_deduplicator").replace("_", " ")
            axes.barh(sources, shares, left=start, color=colour, height=0.74, label=name)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    for y, source in enumerate(sources):
        before, after = first[source], last[source]
        axes.text(
            101,
            y,
            f"{format_bytes(after['bytes_kept'])} of {format_bytes(before['bytes_in'])}\n"
            f"{after['documents_kept']:,} of {before['documents_in']:,} documents",
            va="center",
            fontsize=6.5,
            linespacing=1.1,
            color=LIGHT.muted,
        )
    axes.set_ylim(len(sources) - 0.4, -0.6)
    axes.set_xlim(0, 122)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(axis="y", labelcolor=LIGHT.text)
    axes.set_title("Where each source's bytes went")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _bytes(label: str, kept: int, lost: Mapping[str, int], named: Sequence[str]) -> int:
    if label == KEPT:
        return kept
    if label == REST:
        return sum(n for operator, n in lost.items() if operator not in (*named, CUT))
    return lost[label]
