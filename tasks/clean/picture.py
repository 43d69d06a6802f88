"""One bar for every source: the share of its documents that was kept, and what took the rest.

Labels are English, so that no font for Chinese is needed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from common.files import complete_file
from tasks.core.theme import LIGHT, style

NAMED = 7
"""Operators with a colour of their own; the others share one."""
REST = "other operators"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a ledger's rows into a PNG."""
    with mpl.rc_context(style(LIGHT)):
        figure = _figure(rows)
        with complete_file(path) as file:
            # No software version and date: the same data give the same bytes.
            figure.savefig(file, dpi=150, format="png", metadata={"Software": None})


def _figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    come: dict[str, int] = {}
    left: dict[str, int] = {}
    lost: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for row in rows:
        source, operator = row["source"], row["operator"]
        come.setdefault(source, row["documents_in"])
        left[source] = row["documents_kept"]
        lost.setdefault(source, Counter())[operator] += row["documents_dropped"]
        total[operator] += row["documents_dropped"]
    named = [operator for operator, count in total.most_common(NAMED) if count]
    sources = sorted(come, key=lambda s: -left[s] / max(1, come[s]))
    figure = Figure(figsize=(10, 1.8 + 0.32 * len(sources)))
    axes = figure.subplots()
    start = [0.0] * len(sources)
    colours = {"kept": "#c9d6e3"} | dict(zip(named, LIGHT.series, strict=False)) | {REST: "#9aa5b1"}
    for label, colour in colours.items():
        shares = [100 * _count(label, s, left, lost, named) / max(1, come[s]) for s in sources]
        if any(shares):
            name = label.removesuffix("_filter").removesuffix("_deduplicator").replace("_", " ")
            axes.barh(sources, shares, left=start, color=colour, height=0.74, label=name)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    for y, source in enumerate(sources):
        axes.text(
            101,
            y,
            f"{left[source]:,} of {come[source]:,}",
            va="center",
            fontsize=8,
            color=LIGHT.muted,
        )
    axes.set_ylim(len(sources) - 0.4, -0.6)
    axes.set_xlim(0, 118)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(axis="y", labelcolor=LIGHT.text)
    axes.set_title("Where each source's documents went")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _count(
    label: str,
    source: str,
    left: Mapping[str, int],
    lost: Mapping[str, Counter[str]],
    named: Sequence[str],
) -> int:
    if label == "kept":
        return left[source]
    if label == REST:
        return sum(n for operator, n in lost[source].items() if operator not in named)
    return lost[source][label]
