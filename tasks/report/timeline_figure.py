"""The picture of a pretraining: four panels over the tokens it has read.

    loss          training (thin: every step; bold: running mean) and validation
    rate          learning rate
    speed         tokens a second
    processes     how many ranks trained, one bar for each session

Dashed lines where the run was resumed or rescaled, got data, or skipped batches.
"""

from bisect import bisect_right
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from tasks.core.theme import Theme
from tasks.report.data import Curve, ReportData, Training
from tasks.report.drawing import DASHES, WIDTH, end_label, loss_axes, plot_curve, words
from tasks.report.results import loss_text
from tasks.report.timeline import EventKind, Timeline

COLOURS: dict[EventKind, int] = {
    "resumed": 3,
    "rescaled": 2,
    "data appended": 4,
    "length changed": 6,
    "batches skipped": 5,
}
"""Kind of event -> number of the theme's series."""
TOKENS = "data/tokens"
"""The metric that the horizontal axis shows."""


def pretraining(data: ReportData, theme: Theme) -> Figure | None:
    """The base model's pretraining; None where there is none."""
    training = data.trainings.get("base")
    if training is None or "train/loss" not in training.curves:
        return None
    place, unit = axis(training)
    timeline = data.timeline or Timeline()
    panels = ["train/loss"]
    panels += [n for n in ("train/learning_rate", "perf/tokens_per_second") if n in training.curves]
    panels += ["sessions"] if len(timeline.sessions) > 1 else []
    heights = [3.0 if panel == "train/loss" else 0.8 for panel in panels]
    figure = Figure(figsize=(WIDTH, 1.0 + 1.05 * sum(heights)))
    grid = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for panel, axes in zip(panels, (row[0] for row in grid), strict=True):
        if panel == "train/loss":
            _loss(axes, training, theme, place)
        elif panel == "sessions":
            _sessions(axes, timeline, training, theme, place)
        else:
            _small(axes, over_axis(training.curves[panel], place), panel, theme)
        axes.set_xlabel("")
        for event in timeline.events:
            colour = theme.series[COLOURS[event.kind]]
            axes.axvline(place(event.step), color=colour, linewidth=1.1, linestyle=DASHES)
    _event_legend(grid[0][0], timeline, theme)
    last = grid[-1][0]
    last.set_xlabel(words(theme)(f"plot.{unit}"))
    if unit == "tokens":
        last.xaxis.set_major_formatter(EngFormatter(sep=" "))
    return figure


def axis(training: Training) -> tuple[Callable[[float], float], str]:
    """Step -> place on the horizontal axis, and its unit: tokens read, or steps where unknown.

    Between two measured steps tokens grow evenly.
    """
    tokens = training.curves.get(TOKENS)
    # A step that was also validated has two lines.
    known = {0: 0.0} | dict(zip(tokens.steps, tokens.values, strict=True)) if tokens else {}
    if len(known) < 2:
        return (lambda step: step), "step"
    steps = sorted(known)
    read = [known[step] for step in steps]

    def place(step: float) -> float:
        after = min(bisect_right(steps, step), len(steps) - 1)
        before = after - 1
        share = (step - steps[before]) / (steps[after] - steps[before])
        return read[before] + share * (read[after] - read[before])

    return place, "tokens"


def over_axis(curve: Curve, place: Callable[[float], float]) -> Curve:
    """A curve over the horizontal axis instead of over steps."""
    return Curve(steps=[round(place(step)) for step in curve.steps], values=curve.values)


def _loss(axes: Axes, training: Training, theme: Theme, place: Callable[[float], float]) -> None:
    curve = over_axis(training.curves["train/loss"], place)
    say = words(theme)
    plot_curve(axes, curve, theme.series[0], say("plot.training"), say)
    validations = {
        "validation/loss": say("plot.held_out"),
        "validation/causal_loss": say("plot.held_out_causal"),
    }
    shown = [curve]
    for number, (name, label) in enumerate(validations.items(), 1):
        if name in training.curves:
            found = over_axis(training.curves[name], place)
            shown.append(found)
            axes.plot(
                found.steps,
                found.values,
                color=theme.series[number],
                marker="o",
                markersize=4,
                linewidth=1.6,
                label=end_label(label, loss_text(found.values[-1]), say),
            )
    loss_axes(axes, say("plot.pretraining"), say("plot.per_token"), shown, say)


def _small(axes: Axes, curve: Curve, name: str, theme: Theme) -> None:
    axes.plot(curve.steps, curve.values, color=theme.series[0], linewidth=1.2)
    key = {"train/learning_rate": "plot.rate", "perf/tokens_per_second": "plot.speed"}[name]
    axes.set_ylabel(words(theme)(key))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    if name == "train/learning_rate":
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda rate, _: f"{rate:.1e}" if rate else "0")
        )
    else:
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid(axis="y")


def _sessions(
    axes: Axes,
    timeline: Timeline,
    training: Training,
    theme: Theme,
    place: Callable[[float], float],
) -> None:
    end = training.curves["train/loss"].steps[-1]
    # Steps that a kill lost were trained again by the next session.
    ends = [session.step for session in timeline.sessions[1:]] + [end]
    for session, until in zip(timeline.sessions, ends, strict=True):
        start = place(session.step)
        axes.barh(
            session.num_processes,
            place(until) - start,
            left=start,
            height=0.5,
            color=theme.series[0],
        )
    most = max(session.num_processes for session in timeline.sessions)
    axes.set_ylim(0.4, most + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylabel(words(theme)("plot.processes"))


def _event_legend(axes: Axes, timeline: Timeline, theme: Theme) -> None:
    """Add the kinds of events to the legend, after the curves."""
    say = words(theme)
    handles, labels = axes.get_legend_handles_labels()
    for kind in dict.fromkeys(event.kind for event in timeline.events):
        colour = theme.series[COLOURS[kind]]
        handles.append(Line2D([], [], color=colour, linewidth=1.1, linestyle=DASHES))
        number = sum(event.kind == kind for event in timeline.events)
        name = say.word("event", kind)
        labels.append(name if number == 1 else say("plot.times", name=name, n=number))
    axes.legend(handles, labels, loc="upper right")
