"""The report's pictures, each on a light and on a dark ground.

    data.png          tokens by source            (the paper's figure 2)
    attrition.png     bytes kept by cleaning, and taken out by each operator
    perplexity.png    perplexity of the texts of each source
    pretraining.png   loss, rate, speed and ranks (figure 3)
    checkpoints.png   bits per byte, and benchmarks, of the pretraining's checkpoints
    sft.png           loss of every mixture       (figure 4)
    dpo.png           loss and preference         (figure 5)
    accuracy.png      every model on every benchmark, with intervals and the chance line

Labels are English, and Chinese in the pictures of the Chinese page (NAME.zh.png), where the machine
has a font for them. A picture whose data are not there is not
drawn. Matplotlib's object interface only: no global state, no display.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from common.disk import format_bytes
from corpus.benchmarks.scoring import CHANCE
from tasks.checkpoint_scores.curves import draw as draw_curves
from tasks.core.theme import DARK, LIGHT, Theme, chinese_font, latin, style
from tasks.report.data import Curve, ReportData, Training, running_mean
from tasks.report.drawing import (
    DASHES,
    end_of_interval,
    loss_axes,
    new_figure,
    note,
    plot_curve,
    short_number,
    source_axis,
    step_axis,
    words,
)
from tasks.report.language import LANGUAGES, Language
from tasks.report.learning_curves import curves_figure
from tasks.report.results import benchmark_titles, compare_with_chance, percent
from tasks.report.timeline_figure import pretraining

__all__ = ["draw", "running_mean"]

DPI = 150
MAX_OPERATORS = 12
"""Bars in the second panel of the attrition picture."""


def suffix_of(language: Language) -> str:
    """End of the names of a language's pictures: Chinese ones need a font for their labels."""
    return ".zh" if language == "zh" and chinese_font() is not None else ""


def draw(data: ReportData, folder: Path, languages: Sequence[Language] = LANGUAGES) -> list[str]:
    """Write every picture there are data for, in both themes. Returns their names.

    In Chinese they are drawn where the machine has a font for it.
    """
    pictures: dict[str, Callable[[ReportData, Theme], Figure | None]] = {
        "data": _data,
        "attrition": _attrition,
        "perplexity": _perplexity,
        "pretraining": pretraining,
        "checkpoints": _checkpoints,
        "sft": _sft,
        "dpo": _dpo,
        "accuracy": _accuracy,
    }
    themes = [
        replace(theme, language=language, suffix=f"{suffix_of(language)}{theme.suffix}")
        for language in languages
        if language == "en" or suffix_of(language)
        for theme in (LIGHT, DARK)
    ]
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, picture in pictures.items():
        for theme in themes:
            with mpl.rc_context(style(theme)):
                figure = picture(data, theme)
                if figure is None:
                    break
                # No software version and date: the same data give the same bytes.
                figure.savefig(
                    folder / f"{name}{theme.suffix}.png", dpi=DPI, metadata={"Software": None}
                )
        else:
            drawn.append(name)
    return drawn


def _data(data: ReportData, theme: Theme) -> Figure | None:
    sources = [s for s in data.sources if s.tokens]
    if not sources:
        return None
    say = words(theme)
    total = sum(s.tokens or 0 for s in sources)
    groups: dict[str, int] = {}
    for source in sources:
        groups[source.group] = groups.get(source.group, 0) + (source.tokens or 0)
    ordered = sorted(groups, key=lambda group: -groups[group])
    colour = dict(zip(ordered, _cycle(theme, len(ordered)), strict=True))
    figure, (axes,) = new_figure(1.6 + 0.32 * len(sources))
    names = [latin(s.title) for s in sources]
    counts = [s.tokens or 0 for s in sources]
    bars = axes.barh(names, counts, color=[colour[s.group] for s in sources], height=0.72)
    notes = [f"{short_number(n)}  ({_share(n, total)} %)" for n in counts]
    axes.bar_label(bars, notes, padding=5, fontsize=9, color=theme.text)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.22 * max(counts))
    axes.set_xlabel(say("plot.tokens"))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    source_axis(axes, theme)
    axes.set_title(say("plot.tokens_by_source", n=short_number(total)))
    handles = [mpl.patches.Patch(color=colour[g]) for g in ordered]
    labels = [f"{say.word('group', g)} {_share(groups[g], total)} %" for g in ordered]
    axes.legend(handles, labels, loc="lower right")
    return figure


def _attrition(data: ReportData, theme: Theme) -> Figure | None:
    sources = [s for s in data.sources if s.bytes_kept is not None and s.bytes_in]
    if not sources:
        return None
    say = words(theme)
    shares = {s.name: 100 * (s.bytes_kept or 0) / (s.bytes_in or 1) for s in sources}
    sources.sort(key=lambda s: -shares[s.name])
    takers = sorted(data.operators, key=lambda o: -o.bytes_taken)[:MAX_OPERATORS]
    takers = [o for o in takers if o.bytes_taken > 0]
    rows = max(len(sources), len(takers))
    figure, (left, right) = new_figure(1.8 + 0.3 * rows, panels=2)
    names = [latin(s.title) for s in sources]
    kept = [shares[s.name] for s in sources]
    left.barh(names, [100] * len(names), color=theme.grid, height=0.72)
    left.barh(names, kept, color=theme.series[0], height=0.72)
    for y, (source, share) in enumerate(zip(sources, kept, strict=True)):
        size, whole = format_bytes(source.bytes_kept or 0), format_bytes(source.bytes_in or 0)
        text = say("plot.of", part=size, whole=whole)
        kept_text = f"{source.kept:,}"
        if source.documents is not None:
            kept_text = say("plot.of", part=kept_text, whole=f"{source.documents:,}")
        text += "\n" + say("plot.documents", n=kept_text)
        left.text(102, y, text, va="center", fontsize=6.5, linespacing=1.05, color=theme.muted)
        if share > 15:
            note(left, min(share, 100) - 2, y, f"{share:.1f} %", theme.ground, ha="right")
        else:
            note(left, share + 2, y, f"{share:.1f} %", theme.text)
    left.set_ylim(rows - 0.4, -0.6)
    left.set_xlim(0, 165)
    left.set_xticks([0, 50, 100], ["0", "50", "100 %"])
    left.tick_params(axis="y", labelcolor=theme.text)
    left.set_title(say("plot.bytes_kept"))
    labels = [f"{latin(_short(o.name))} ({o.family})" for o in takers]
    dropped = [o.bytes_dropped for o in takers]
    cut = [max(0, o.bytes_cut) for o in takers]
    right.barh(labels, dropped, color=theme.series[1], label=say("plot.with_dropped"), height=0.72)
    bars = right.barh(
        labels, cut, left=dropped, color=theme.series[4], label=say("plot.from_kept"), height=0.72
    )
    sizes = [format_bytes(o.bytes_taken) for o in takers]
    right.bar_label(bars, sizes, padding=4, fontsize=8, color=theme.text)
    right.set_ylim(rows - 0.4, -0.6)  # bars as thick as on the left
    right.tick_params(axis="y", labelcolor=theme.text, labelsize=8)
    right.margins(x=0.18)
    right.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    right.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    right.grid(axis="x")
    right.set_title(say("plot.taken_out"))
    if takers:
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _short(operator: str) -> str:
    """Name of an operator without its kind, in words."""
    return operator.rpartition("_")[0].replace("_", " ")


def _perplexity(data: ReportData, theme: Theme) -> Figure | None:
    cleaning = data.cleaning
    if cleaning is None or not cleaning.perplexity:
        return None
    say = words(theme)
    rows = sorted(cleaning.perplexity, key=lambda s: s.percentiles[50])
    titles = {source.name: source.title for source in data.sources}
    figure, (axes,) = new_figure(1.7 + 0.32 * len(rows))
    for y, row in enumerate(rows):
        low, quarter, middle, three, high = (row.percentiles[p] for p in (5, 25, 50, 75, 95))
        axes.plot([low, high], [y, y], color=theme.series[0], linewidth=1.5)
        axes.barh(y, three - quarter, left=quarter, height=0.6, color=theme.series[0])
        axes.plot(middle, y, marker="|", markersize=11, markeredgewidth=2, color=theme.ground)
        if row.most is not None:
            axes.plot([row.most] * 2, [y - 0.5, y + 0.5], color=theme.series[1], linewidth=1.5)
    if bounds := {row.most for row in rows if row.most is not None}:
        above = ", ".join(f"{bound:,.0f}" for bound in sorted(bounds))
        text = say("plot.dropped_above", bound=above)
        note(axes, max(bounds), -0.9, f" {text}", theme.series[1])
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [latin(titles.get(s.source, s.source)) for s in rows])
    axes.set_ylim(len(rows) - 0.4, -1.1)
    source_axis(axes, theme)
    axes.set_xlabel(say("plot.perplexity_axis"))
    axes.set_title(say("plot.perplexity"))
    return figure


def _checkpoints(data: ReportData, theme: Theme) -> Figure | None:
    return None if data.checkpoints is None else draw_curves(data.checkpoints, theme)


def _sft(data: ReportData, theme: Theme) -> Figure | None:
    runs = {n.removeprefix("sft "): t for n, t in data.trainings.items() if n.startswith("sft ")}
    return curves_figure({name: [training] for name, training in runs.items()}, theme)


def _dpo(data: ReportData, theme: Theme) -> Figure | None:
    training: Training | None = data.trainings.get("dpo")
    if training is None or "train/loss" not in training.curves:
        return None
    curves, say = training.curves, words(theme)
    accuracy, rewards = curves.get("train/preference_accuracy"), curves.get("train/reward_chosen")
    figure, panels = new_figure(3.5, panels=1 + (accuracy is not None) + (rewards is not None))
    loss, held_out = curves["train/loss"], curves.get("validation/loss")
    plot_curve(panels[0], loss, theme.series[0], say("plot.training"), say)
    if held_out is not None:
        plot_curve(panels[0], held_out, theme.series[1], say("plot.held_out"), say)
    panels[0].axhline(math.log(2), color=theme.muted, linewidth=1, linestyle=DASHES)
    panels[0].annotate(
        say("plot.no_preference"),
        (1, math.log(2)),
        (-4, -11),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=theme.muted,
    )
    of_loss = [loss] if held_out is None else [loss, held_out]
    loss_axes(panels[0], say("plot.dpo"), say("plot.per_pair"), of_loss, say)
    panels[0].legend(loc="lower left")  # the curves begin above, at ln 2
    if accuracy is not None:
        _preference_accuracy(panels[1], training, theme)
    if rewards is not None:
        _rewards(panels[-1], curves, theme)
    return figure


def _preference_accuracy(axes: Axes, training: Training, theme: Theme) -> None:
    """Share of pairs whose chosen answer is rewarded more, and of those where it is longer."""
    say = words(theme)
    for name, label, colour in (
        ("train/preference_accuracy", say("plot.training"), theme.series[2]),
        ("validation/preference_accuracy", say("plot.held_out"), theme.series[1]),
    ):
        if (curve := training.curves.get(name)) is not None:
            share = Curve(steps=curve.steps, values=[100 * value for value in curve.values])
            plot_curve(axes, share, colour, label, say, lambda end: f"{end:.1f} %")
    axes.axhline(50, color=theme.muted, linewidth=1, linestyle=DASHES)
    if (baseline := training.counts.get("length_accuracy")) is not None:
        label = say("plot.longer", share=percent(baseline))
        axes.axhline(100 * baseline, color=theme.series[5], linewidth=1, label=label)
    axes.set_ylim(0, 103)
    axes.set_ylabel(say("plot.pairs"))
    axes.grid(axis="y")
    step_axis(axes, say)
    axes.set_title(say("plot.preferred"))
    axes.legend(loc="lower right")


def _rewards(axes: Axes, curves: Mapping[str, Curve], theme: Theme) -> None:
    """Rewards of both answers, which is beta times how far the policy moved from the reference."""
    say = words(theme)
    for name, colour in (("chosen", theme.series[2]), ("rejected", theme.series[5])):
        if (curve := curves.get(f"train/reward_{name}")) is not None:
            plot_curve(axes, curve, colour, say(f"plot.{name}"), say, lambda end: f"{end:+.3f}")
    axes.axhline(0, color=theme.muted, linewidth=1, linestyle=DASHES)
    axes.set_title(say("plot.rewards"))
    axes.set_ylabel(say("plot.reward"))
    axes.grid(axis="y")
    step_axis(axes, say)
    axes.legend(loc="best")


def _accuracy(data: ReportData, theme: Theme) -> Figure | None:
    titles = benchmark_titles(data.results)
    if not titles:
        return None
    say, chance = words(theme), 100 * CHANCE
    models = list(data.results)
    figure, panels = new_figure(1.5 + 0.42 * len(models), panels=len(titles), sharey=True)
    bounds = [r["interval_95"] for of_model in data.results.values() for r in of_model.values()]
    low = min(20.0, 100 * min(b[0] for b in bounds) - 4)
    high = max(35.0, 100 * max(b[1] for b in bounds) + 9)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        axes.axvline(chance, color=theme.muted, linewidth=1, linestyle=DASHES)
        for y, model in enumerate(models):
            result = data.results[model].get(name)
            if result is None:
                note(axes, chance, y, f" {say('not_run')}", theme.muted)
                continue
            colour = {"above": theme.series[2], "at": theme.muted, "below": theme.series[5]}[
                compare_with_chance(result)
            ]
            share = 100 * result["accuracy_micro"]
            left, right = (100 * bound for bound in result["interval_95"])
            axes.plot([left, right], [y, y], color=colour, linewidth=2.4)
            axes.plot(
                [share], [y], color=colour, marker="o", markersize=7, markeredgecolor=theme.ground
            )
            end_of_interval(axes, right, y, percent(result["accuracy_micro"]), theme)
        axes.set_title(title)
        axes.set_xlim(max(0.0, low), min(100.0, high))
        axes.set_ylim(len(models) - 0.4, -0.7)
        axes.set_yticks(range(len(models)), [latin(model) for model in models])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        source_axis(axes, theme)
    figure.supxlabel(say("plot.accuracy_axis"), fontsize=8.5, color=theme.muted)
    return figure


def _cycle(theme: Theme, count: int) -> list[str]:
    return [theme.series[i % len(theme.series)] for i in range(count)]


def _share(part: float, whole: float) -> str:
    return percent(part / whole)
