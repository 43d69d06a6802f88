"""Stage `data_comparison`: bits per byte by cleaning recipes, beside what each corpus holds.

bits_per_byte[recipes/seed] ──mean, spread over seeds──▶ table.json, table.md, comparison.png
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import StageConfig
from common.files import write_json, write_text
from common.reading.files import read_json_object
from tasks.core.markdown import markdown_table
from tasks.core.stage import StageResult, StageRun, stage
from tasks.core.theme import LIGHT, save, style

KEY = "data-ablation"
"""Key of the Prefect artifacts, and name of the MLflow table."""
MEAN = "mean of kinds"
"""Column of the unweighted mean over the kinds of text."""


@dataclass(frozen=True, kw_only=True)
class DataComparisonConfig(StageConfig):
    """Remarks of the table beside the measurements."""

    failed: dict[str, str] = field(default_factory=dict)
    """Set of recipes -> reason why no corpus came of it."""


@stage(version=1)
def data_comparison(
    run: StageRun,
    config: DataComparisonConfig,
    *,
    measured: Mapping[str, StageResult],
    models: Mapping[str, StageResult],
    packed: Mapping[str, StageResult],
    cleaned: Mapping[str, StageResult],
) -> None:
    """Write table.json, table.md and comparison.png, and show them.

    Args:
        measured: `<recipes>/<seed>` -> bits per byte.
        models: `<recipes>/<seed>` -> what was trained.
        packed: recipes -> their tokens.
        cleaned: recipes -> their texts.
    """
    figures = {
        name: read_json_object(result.folder / "results.json") for name, result in measured.items()
    }
    seeds: dict[str, list[str]] = {}
    for name in measured:
        seeds.setdefault(name.rpartition("/")[0], []).append(name)
    rows = [
        {
            "recipes": recipes,
            "seeds": len(names),
            **_spread({name: figures[name] for name in names}),
            **_corpus(cleaned[recipes], packed[recipes], models[names[0]]),
        }
        for recipes, names in seeds.items()
    ]
    rows.sort(key=lambda row: row[MEAN])
    kinds = sorted({kind for one in figures.values() for kind in one})
    write_json(
        run.folder / "table.json",
        {"kinds": kinds, "rows": rows, "runs": _runs(figures), "failed": config.failed},
    )
    shown = [_shown(row, kinds) for row in rows]
    failed = "".join(f"\n- {name}: not compared, {why}" for name, why in config.failed.items())
    text = f"# Corpora by cleaning recipes\n\n{EXPLAINED}\n\n{markdown_table(shown)}\n{failed}\n"
    write_text(run.folder / "table.md", text)
    _draw(rows, kinds, run.folder / "comparison.png")
    run.table(KEY, shown, "Bits per byte of held-out texts by cleaning recipes; lower is better")
    run.markdown(f"{KEY}-page", text)
    run.picture(run.folder / "comparison.png", "Bits per byte by cleaning recipes")
    run.count(compared=len(seeds), runs=len(figures))
    run.note(rows=shown, best=rows[0]["recipes"])


EXPLAINED = (
    "Each row is one small model for each seed, trained on the same number of tokens of the corpus "
    "that these recipes leave. Bits per byte of texts that no model was trained on, mean and "
    "standard deviation over the seeds; lower is better. Differences of less than about twice the "
    "deviation say nothing."
)


def _spread(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, by kind of text and over the kinds."""
    kinds = next(iter(figures.values()))
    by_kind = {kind: [one[kind]["bits_per_byte"] for one in figures.values()] for kind in kinds}
    means = [statistics.fmean(values) for values in zip(*by_kind.values(), strict=True)]
    found: dict[str, Any] = {}
    for name, values in {**by_kind, MEAN: means}.items():
        found[name] = statistics.fmean(values)
        found[f"{name} ±"] = statistics.stdev(values) if len(values) > 1 else None
    return found


def _corpus(cleaned: StageResult, packed: StageResult, model: StageResult) -> dict[str, Any]:
    """Sizes of a corpus, and how often a model saw it."""
    tokens = packed.manifest["counts"]["tokens"]
    seen = model.manifest["counts"]["tokens"]
    counts = cleaned.manifest["counts"]
    return {
        "documents": int(packed.manifest["counts"]["documents"]),
        "bytes kept": counts["bytes_kept"],
        "tokens in the corpus": int(tokens),
        "tokens trained on": int(seen),
        "epochs": seen / tokens,
    }


def _runs(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        name: {kind: one["bits_per_byte"] for kind, one in kinds.items()}
        for name, kinds in figures.items()
    }


def mean_text(row: Mapping[str, Any], name: str) -> str:
    """A mean in bits per byte, alike in the table and in the picture."""
    return f"{row[name]:.4f}"


def _shown(row: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """A row as a person reads it."""
    numbers = {}
    for name in (*kinds, MEAN):
        spread = row[f"{name} ±"]
        numbers[name] = mean_text(row, name) + ("" if spread is None else f" ± {spread:.4f}")
    return {
        "recipes": row["recipes"],
        **numbers,
        "seeds": row["seeds"],
        "documents": f"{row['documents']:,}",
        "bytes kept": f"{row['bytes kept']:,}",
        "tokens in the corpus": f"{row['tokens in the corpus']:,}",
        "tokens trained on": f"{row['tokens trained on']:,}",
        "epochs": f"{row['epochs']:.2f}",
    }


def _draw(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], path: Path) -> None:
    """Draw a panel for each kind of text: the mean of each set of recipes, with its deviation."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    theme = LIGHT
    with mpl.rc_context(style(theme)):
        names = (*kinds, MEAN)
        figure = Figure(figsize=(2.3 * len(names) + 1.2, 1.4 + 0.36 * len(rows)))
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        labels = [row["recipes"] for row in rows]
        for panel, name in zip(panels, names, strict=True):
            for place, row in enumerate(rows):
                colour = theme.series[place % len(theme.series)]
                spread = row[f"{name} ±"] or 0.0
                panel.errorbar(row[name], place, xerr=spread, fmt="o", color=colour, capsize=4)
                panel.annotate(
                    mean_text(row, name),
                    (row[name], place),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=theme.muted,
                )
            panel.margins(x=0.25)
            panel.set_yticks(range(len(rows)), labels)
            panel.set_title(name)
            panel.tick_params(axis="y", labelcolor=theme.text)
            panel.grid(axis="x")
        panels[0].set_ylim(len(rows) - 0.4, -0.8)
        figure.supxlabel(
            "bits per byte, mean and standard deviation over seeds; lower is better", fontsize=9
        )
        save(figure, path)
