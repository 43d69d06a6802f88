"""One bar for each source: the shares of its documents that were kept, and dropped by operator.

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
    documents_in: dict[str, int] = {}
    documents_kept: dict[str, int] = {}
    dropped: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for row in rows:
        source, operator = row["source"], row["operator"]
        documents_in.setdefault(source, row["documents_in"])
        documents_kept[source] = row["documents_kept"]
        dropped.setdefault(source, Counter())[operator] += row["documents_dropped"]
        total[operator] += row["documents_dropped"]
    named = [operator for operator, count in total.most_common(NAMED) if count]
    sources = sorted(documents_in, key=lambda s: -documents_kept[s] / max(1, documents_in[s]))
    figure = Figure(figsize=(10, 1.8 + 0.32 * len(sources)))
    axes = figure.subplots()
    start = [0.0] * len(sources)
    colours = {"kept": "#c9d6e3"} | dict(zip(named, LIGHT.series, strict=False)) | {REST: "#9aa5b1"}
    for label, colour in colours.items():
        shares = [
            100 * _count(label, s, documents_kept, dropped, named) / max(1, documents_in[s])
            for s in sources
        ]
        if any(shares):
            name = label.removesuffix("_filter").removesuffix("_deduplicator").replace("_", " ")
            axes.barh(sources, shares, left=start, color=colour, height=0.74, label=name)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    for y, source in enumerate(sources):
        axes.text(
            101,
            y,
            f"{documents_kept[source]:,} of {documents_in[source]:,}",
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
    documents_kept: Mapping[str, int],
    dropped: Mapping[str, Counter[str]],
    named: Sequence[str],
) -> int:
    if label == "kept":
        return documents_kept[source]
    if label == REST:
        return sum(n for operator, n in dropped[source].items() if operator not in named)
    return dropped[source][label]
