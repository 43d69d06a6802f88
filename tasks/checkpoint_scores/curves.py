"""Curves of a run's checkpoints: their points, a picture, and the points in MLflow."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import digest_of, write_json
from common.reading.files import read_json_object
from corpus.benchmarks.scoring import CHANCE
from tasks.core.manifest import StageResult
from tasks.core.theme import LIGHT, Theme, latin, save, style
from tasks.core.tracking.points import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger("steel.checkpoint_scores")

FOLDER = "checkpoint_scores"
"""Folder of a store."""

CURVES_FILE = "curves.json"

PREFIX = "checkpoints"
"""Beginning of the metrics' names in MLflow; their steps are tokens read."""

DRAWN = {
    "letters/p_right": "plot.p_right",
    "letters/accuracy": "plot.by_letters",
    "cloze/bits_per_byte": "plot.cloze_bits",
    "cloze/accuracy": "plot.by_texts",
}
"""Figure of a benchmark that is drawn -> key of its panel's title."""


CHANCE_LEVELS = {key for name, key in DRAWN.items() if "bits" not in name}
"""Panels with a line for blind guesses."""

ALL = "all"
"""Name of the curve over all held-out texts."""

IN_ROWS = {
    "letters/accuracy": "accuracy",
    "letters/p_right": "P(right)",
    "cloze/bits_per_byte": "cloze bits per byte",
}
"""Figure of a benchmark that tables show -> its words."""


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Records of all checkpoints that are measured, in order of steps."""
    found = [read_json_object(path) for path in sorted((folder / "steps").glob("step-*.json"))]
    return sorted(found, key=lambda r: (r["step"], r["batch"], r["finished"]))


def on_path(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the records that lie on the way to the newest weights, in order of steps.

    A rollback discards steps, and passes over batches: from there on, more batches than before were
    consumed at the same step. So a checkpoint is off the path where one of an earlier or the same
    step has skipped more than it. Of two of one step and batch, the one measured last counts.
    """
    ordered = sorted(records, key=lambda r: (r["step"], r["batch"], r["finished"]))
    latest = {(r["step"], r["batch"]): r for r in ordered}
    kept: list[Mapping[str, Any]] = []
    for record in latest.values():
        skipped = record["batch"] - record["step"]
        while kept and kept[-1]["step"] == record["step"]:
            kept.pop()
        if not kept or kept[-1]["batch"] - kept[-1]["step"] <= skipped:
            kept.append(record)
    return kept


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Every figure of a checkpoint by its name in MLflow, without the prefix."""
    found = {f"bits_per_byte/{s}": r["bits_per_byte"] for s, r in record["bits_per_byte"].items()}
    if record["bits_per_byte"]:
        sums = record["bits_per_byte"].values()
        found[f"bits_per_byte/{ALL}"] = sum(r["bits"] for r in sums) / sum(r["bytes"] for r in sums)
    for benchmark, forms in record["benchmarks"].items():
        for form, figures in forms.items():
            for name, figure in figures.items():
                found[f"{benchmark}/{form}/{name}"] = figure["mean"]
    return found


def curves(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Points of all curves: {"steps", "tokens", "metrics": name -> values, None where absent}."""
    path = on_path(records)
    measured = [metrics_of(record) for record in path]
    names = sorted({name for one in measured for name in one})
    return {
        "steps": [record["step"] for record in path],
        "tokens": [record["tokens"] for record in path],
        "metrics": {name: [one.get(name) for one in measured] for name in names},
    }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """A row for each checkpoint of the curves, with the figures that are drawn."""
    rows = []
    for record in on_path(read_records(folder)):
        metrics = metrics_of(record)
        row: dict[str, Any] = {"step": record["step"], "tokens": record["tokens"]}
        if "bits_per_byte/all" in metrics:
            row["bits per byte"] = round(metrics["bits_per_byte/all"], 4)
        for benchmark in record["benchmarks"]:
            for figure, word in IN_ROWS.items():
                if (value := metrics.get(f"{benchmark}/{figure}")) is not None:
                    row[f"{benchmark} {word}"] = round(value, 4)
        rows.append(row)
    return rows


def publish(folder: Path) -> dict[str, Any]:
    """Write curves.json and curves.png of all that is measured; return the points."""
    found = curves(read_records(folder))
    write_json(folder / CURVES_FILE, found)
    if (figure := draw(found, LIGHT)) is not None:
        save(figure, folder / "curves.png")
    return found


def read_curves(folder: Path) -> dict[str, Any]:
    """The points of all curves in a folder of records. Raises DataError."""
    return read_json_object(folder / CURVES_FILE)


def newest_curves(store: Path, key: str) -> StageResult | None:
    """The curves of a pretraining that were written last; None where none of it was measured.

    The result's key is a hash of their content: what is made of them is made anew when they grow.
    """
    files = sorted((store / FOLDER / key).glob(f"*/{CURVES_FILE}"), key=lambda p: p.stat().st_mtime)
    if not files:
        return None
    found = read_curves(files[-1].parent)
    if not found.get("tokens"):
        return None
    digest = digest_of(found)[:16]
    manifest = {"stage": FOLDER, "key": digest, "label": "", "counts": {}, "notes": {}}
    return StageResult(stage=FOLDER, key=digest, folder=files[-1].parent, manifest=manifest)


def curves_of(store: Path, pretraining: StageResult | None) -> StageResult | None:
    """`newest_curves` of a pretraining, where there is one."""
    return None if pretraining is None else newest_curves(store, pretraining.key)


def draw(found: Mapping[str, Any], theme: Theme) -> "Figure | None":
    """Panels over tokens: bits per byte by source, and of each figure all benchmarks."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = {"plot.bits_per_byte": _named(found, "bits_per_byte/", "")}
    for figure, title in DRAWN.items():
        panels[title] = _named(found, "", f"/{figure}")
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels or not found["tokens"]:
        return None
    rows = -(-len(panels) // 2)
    with mpl.rc_context(style(theme)):  # type: ignore[arg-type]
        figure_ = Figure(figsize=(9.0, 0.4 + 2.9 * rows))
        grid = figure_.subplots(rows, 2, squeeze=False)
        places = [axes for row in grid for axes in row]
        for axes, (title, lines) in zip(places, panels.items(), strict=False):
            _panel(axes, found["tokens"], lines, title, theme)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
    return figure_


def _named(found: Mapping[str, Any], before: str, after: str) -> dict[str, list[float | None]]:
    return {
        name.removeprefix(before).removesuffix(after): values
        for name, values in found["metrics"].items()
        if name.startswith(before) and name.endswith(after) and (before or after)
    }


def _panel(
    axes: "Axes",
    tokens: list[int],
    lines: Mapping[str, list[float | None]],
    title: str,
    theme: Theme,
) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    from tasks.report.language import Writer

    say = Writer(theme.language)
    for number, (name, values) in enumerate(lines.items()):
        points = [(t, v) for t, v in zip(tokens, values, strict=True) if v is not None]
        axes.plot(
            [t for t, _ in points],
            [v for _, v in points],
            color=theme.text if name == ALL else theme.series[number % len(theme.series)],
            linestyle="-" if number < len(theme.series) else "--",
            marker="o",
            markersize=3,
            linewidth=2.4 if name == ALL else 1.6,
            label=f"{say('training.all') if name == ALL else latin(name)}: {points[-1][1]:.3f}",
        )
    if title in CHANCE_LEVELS:
        axes.axhline(
            CHANCE, color=theme.muted, linewidth=1, linestyle=":", label=say("plot.chance")
        )
    axes.set_title(say(title))
    axes.set_xlabel(say("plot.tokens"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid(axis="y")
    axes.legend(fontsize=7, ncols=1 if len(lines) < 7 else 2)


def points(records: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Points of the curves for MLflow; a point that is complete has the run's step, too."""
    return [
        Point(
            at=record["tokens"],
            values={f"{PREFIX}/{name}": value for name, value in metrics_of(record).items()},
            mark=(f"{PREFIX}/step", float(record["step"])),
        )
        for record in on_path(records)
    ]
