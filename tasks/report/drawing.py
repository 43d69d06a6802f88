"""Figures, axes, curves and numbers, alike in all of the report's pictures."""

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.core.theme import Theme
from tasks.report.data import Curve
from tasks.report.language import Writer
from tasks.report.results import loss_text

WIDTH = 9.0
"""Inches; at 150 dots an inch a picture is 1,350 pixels wide."""
DASHES = (0, (4, 3))


def words(theme: Theme) -> Writer:
    """Texts of a picture, in its language."""
    return Writer(theme.language)


def new_figure(
    height: float, panels: int = 1, *, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side; height in inches."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(1, panels, squeeze=False, sharey=sharey)
    return figure, list(axes[0])


def source_axis(axes: Axes, theme: Theme) -> None:
    """Style axes of horizontal bars: readable names on the left, a grid of the values."""
    axes.tick_params(axis="y", labelcolor=theme.text)
    axes.grid(axis="x")


def end_of_interval(axes: Axes, x: float, y: float, text: str, theme: Theme) -> None:
    """Write a value behind the upper end of its interval."""
    axes.annotate(
        text,
        (x, y),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=theme.text,
    )


def note(axes: Axes, x: float, y: float, text: str, colour: str, *, ha: str = "left") -> None:
    """Write a small text at the height of a bar."""
    axes.text(x, y, text, va="center", ha=ha, fontsize=8, color=colour)


def plot_curve(
    axes: Axes,
    curve: Curve,
    colour: str,
    label: str,
    say: Writer,
    shown: Callable[[float], str] = loss_text,
    *,
    raw: bool = True,
) -> None:
    """Plot measurements as a thin line, their running mean as a bold one with its last value.

    raw: False leaves the thin line out.
    """
    means = curve.smoothed
    if raw and means != curve.values:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(
        curve.steps,
        means,
        color=colour,
        linewidth=2,
        zorder=3,
        label=end_label(label, shown(curve.end), say),
        marker="o" if len(means) == 1 else None,
    )


def end_label(label: str, value: str, say: Writer) -> str:
    """Label with the last value of a curve."""
    return say("plot.at_the_end", label=label, value=value)


def loss_axes(axes: Axes, title: str, unit: str, curves: list[Curve], say: Writer) -> None:
    """Label the axes of loss curves, and cut off first steps that are much higher than the rest."""
    values = sorted(value for curve in curves for value in curve.values if math.isfinite(value))
    usual = values[int(0.98 * (len(values) - 1))]
    if values[-1] > 1.6 * usual:
        # A few first steps so much higher would flatten all that follows.
        axes.set_ylim(values[0] - 0.08 * (usual - values[0]), 1.15 * usual)
    axes.set_title(title)
    step_axis(axes, say)
    axes.set_ylabel(unit)
    axes.grid(axis="y")
    axes.legend(loc="upper right")


def step_axis(axes: Axes, say: Writer) -> None:
    """Label the horizontal axis with steps."""
    axes.set_xlabel(say("plot.step"))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def short_number(count: float) -> str:
    """Format a count with a unit: 1234567 -> 1.23 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"
