"""Training losses of several models, by step and by tokens read (the paper's figure 4)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from tasks.core.theme import Theme, latin
from tasks.report.data import Curve, Training
from tasks.report.drawing import WIDTH, loss_axes, plot_curve, words
from tasks.report.timeline_figure import axis, over_axis


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
    say = words(theme)
    _curves(left, by_step, say("plot.sft"), theme)
    if by_tokens:
        _curves(right, by_tokens, say("plot.by_tokens"), theme)
        right.set_xlabel(say("plot.tokens"))
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
    say = words(theme)
    for place, (name, seeds) in enumerate(curves.items()):
        colour = theme.series[place % len(theme.series)]
        label = latin(name)
        if len(seeds) > 1:
            label = say("plot.mean_of", name=label, n=len(seeds))
        plot_curve(axes, mean_curve(seeds), colour, label, say, raw=len(curves) == 1)
        for seed in seeds if len(seeds) > 1 else ():
            axes.plot(seed.steps, seed.smoothed, color=colour, linewidth=0.8, alpha=0.5)
    every = [curve for seeds in curves.values() for curve in seeds]
    loss_axes(axes, title, say("plot.per_token"), every, say)


def mean_curve(seeds: Sequence[Curve]) -> Curve:
    """Mean of the curves of several seeds, as far as all of them go."""
    places = list(zip(*(seed.steps for seed in seeds), strict=False))
    values = list(zip(*(seed.values for seed in seeds), strict=False))
    return Curve(
        steps=[round(fmean(steps)) for steps in places], values=[fmean(row) for row in values]
    )
