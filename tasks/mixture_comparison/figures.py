"""Pictures of a comparison of mixtures.

accuracy.png   a bar for each mixture and benchmark, with its interval; the rows of the table
curves.png     training loss of each mixture by step and by tokens read (the paper's figure 4)
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from tasks.core.markdown import NOT_RUN
from tasks.core.theme import Theme, latin
from tasks.mixture_comparison.table import BASE, percent
from tasks.report.drawing import DASHES, WIDTH, end_of_interval, source_axis

CHANCE = 25.0
"""Per cent that a guess gets right."""


def accuracy_figure(table: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw the accuracies of the table, as it shows them, a panel for each benchmark."""
    names = list(table["statuses"])
    benchmarks = table["benchmarks"]
    figure = Figure(figsize=(WIDTH, 1.7 + 0.4 * len(names)))
    panels = figure.subplots(1, max(1, len(benchmarks)), sharey=True, squeeze=False)[0]
    highest = max(
        [CHANCE]
        + [100 * row["interval_95"][1] for row in table["rows"] if row["interval_95"]]
        + [row["paper"] for row in table["rows"] if row["paper"] is not None]
    )
    for axes, (benchmark, title) in zip(panels, benchmarks.items(), strict=False):
        rows = {row["mixture"]: row for row in table["rows"] if row["benchmark"] == benchmark}
        axes.axvline(CHANCE, color=theme.muted, linewidth=1, linestyle=DASHES)
        for y, name in enumerate(names):
            row = rows[name]
            if row["paper"] is not None:
                # Below the bar, where no number stands.
                axes.plot(row["paper"], y + 0.4, marker="D", color=theme.series[1], markersize=4)
            if row["accuracy"] is None:
                axes.text(1, y, NOT_RUN, va="center", fontsize=8.5, color=theme.muted)
                continue
            colour = theme.muted if name == BASE else theme.series[0]
            value = 100 * row["accuracy"]
            low, high = (100 * bound for bound in row["interval_95"])
            axes.barh(y, value, height=0.56, color=colour, alpha=0.55)
            axes.plot([low, high], [y, y], color=colour, linewidth=2)
            end_of_interval(axes, high, y, percent(row["accuracy"]), theme)
        axes.set_title(title)
        axes.set_xlim(0, min(118.0, highest + 14))
        axes.set_ylim(len(names) - 0.4, -0.7)
        axes.set_yticks(range(len(names)), [latin(name) for name in names])
        source_axis(axes, theme)
    means = ", mean over seeds" if table["repeated"] else ""
    paper = "; diamond: the paper" if any(r["paper"] is not None for r in table["rows"]) else ""
    figure.supxlabel(
        f"accuracy{means}, % (line: 95 % interval; dashed: chance{paper})",
        fontsize=8.5,
        color=theme.muted,
    )
    return figure
