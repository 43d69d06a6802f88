"""Pictures of a comparison of mixtures.

accuracy.png   a bar for each mixture and benchmark, with its interval; the rows of the table
curves.png     training loss of each mixture by step and by tokens read (the paper's figure 4)
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from tasks.core.theme import Theme
from tasks.mixture_comparison.table import BASE, percent
from tasks.report.data import Curve, Training
from tasks.report.drawing import DASHES, PER_TOKEN, WIDTH, latin, loss_axes, plot_curve, source_axis
from tasks.report.timeline_figure import axis, over_axis

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
                axes.plot(row["paper"], y, marker="D", color=theme.series[1], markersize=5)
            if row["accuracy"] is None:
                axes.text(1, y, row["status"][:40], va="center", fontsize=7, color=theme.muted)
                continue
            colour = theme.muted if name == BASE else theme.series[0]
            value = 100 * row["accuracy"]
            low, high = (100 * bound for bound in row["interval_95"])
            axes.barh(y, value, height=0.62, color=colour, alpha=0.55)
            axes.plot([low, high], [y, y], color=colour, linewidth=2)
            axes.annotate(
                percent(row["accuracy"]),
                (high, y),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=theme.text,
            )
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


def curves_figure(runs: Mapping[str, Sequence[Training]], theme: Theme) -> Figure | None:
    """Draw the training loss by step and by tokens; None where nothing was recorded.

    runs: mixture -> its trainings, one for each seed: their mean is drawn, and each one thinly.
    """
    by_step: dict[str, list[Curve]] = {}
    by_tokens: dict[str, list[Curve]] = {}
    for name, trainings in runs.items():
        for training in trainings:
            if (loss := training.curves.get("train/loss")) is not None:
                by_step.setdefault(name, []).append(loss)
                place, unit = axis(training)
                if unit == "tokens":
                    by_tokens.setdefault(name, []).append(over_axis(loss, place))
    if not by_step:
        return None
    figure = Figure(figsize=(WIDTH, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    _curves(left, by_step, "SFT loss by step", theme)
    if by_tokens:
        _curves(right, by_tokens, "by tokens read", theme)
        right.set_xlabel("tokens")
        right.set_ylabel("")
        right.xaxis.set_major_locator(MaxNLocator(5))
        right.xaxis.set_major_formatter(EngFormatter(sep=" "))
        right.get_legend().remove()
    else:
        right.set_axis_off()
    left.get_legend().remove()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _curves(axes: Axes, curves: Mapping[str, list[Curve]], title: str, theme: Theme) -> None:
    for place, (name, seeds) in enumerate(curves.items()):
        colour = theme.series[place % len(theme.series)]
        label = latin(name) if len(seeds) == 1 else f"{latin(name)}, mean of {len(seeds)}"
        plot_curve(axes, mean_curve(seeds), colour, label)
        for seed in seeds if len(seeds) > 1 else ():
            axes.plot(seed.steps, seed.values, color=colour, linewidth=0.6, alpha=0.4)
    loss_axes(axes, title, PER_TOKEN, [curve for seeds in curves.values() for curve in seeds])


def mean_curve(seeds: Sequence[Curve]) -> Curve:
    """Mean of the curves of several seeds, as far as all of them go."""
    places = list(zip(*(seed.steps for seed in seeds), strict=False))
    values = list(zip(*(seed.values for seed in seeds), strict=False))
    return Curve(
        steps=[round(fmean(steps)) for steps in places], values=[fmean(row) for row in values]
    )
