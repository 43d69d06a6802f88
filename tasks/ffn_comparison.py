"""Stage `ffn_comparison`: held-out loss by routing, over seeds.

pretrain[routing/seed] ──mean, spread; difference to one routing by seed──▶ table.json, table.md
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.config import StageConfig
from common.errors import DataError
from common.files import write_json, write_text
from tasks.core.markdown import markdown_table
from tasks.core.stage import StageResult, StageRun, stage

KEY = "ffn-ablation"
"""Key of the Prefect artifact, and name of the MLflow table."""
LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True, kw_only=True)
class FfnComparisonConfig(StageConfig):
    """Names of the compared, and remarks beside the measurements."""

    baseline: str
    """Routing that the others are compared with."""
    failed: dict[str, str] = field(default_factory=dict)
    """`<routing>/<seed>` -> reason why it was not trained."""


@stage(version=1)
def ffn_comparison(
    run: StageRun, config: FfnComparisonConfig, *, models: Mapping[str, StageResult]
) -> None:
    """Write table.json and table.md, and show them. models: `<routing>/<seed>` -> the training."""
    counts = {name: result.manifest["counts"] for name, result in models.items()}
    runs = {name: held_out_loss(name, values) for name, values in counts.items()}
    losses: dict[str, dict[str, float]] = {}
    for name, loss in runs.items():
        routing, _, seed = name.rpartition("/")
        losses.setdefault(routing, {})[seed] = loss
    rows = [
        {
            "routing": routing,
            "seeds": len(by_seed),
            **spread(list(by_seed.values())),
            **paired(by_seed, losses.get(config.baseline, {})),
            **_means([counts[f"{routing}/{seed}"] for seed in by_seed]),
        }
        for routing, by_seed in losses.items()
    ]
    about = {"baseline": config.baseline, "rows": rows, "runs": runs, "failed": config.failed}
    write_json(run.folder / "table.json", about)
    shown = [_shown(row, config.baseline) for row in rows]
    failed = "".join(f"\n- {name}: not compared, {why}" for name, why in config.failed.items())
    explained = EXPLAINED.format(baseline=config.baseline)
    text = f"# Routings\n\n{explained}\n\n{markdown_table(shown)}\n{failed}\n"
    write_text(run.folder / "table.md", text)
    run.table(KEY, shown, explained)
    means = {f"loss_{routing}": statistics.fmean(of.values()) for routing, of in losses.items()}
    run.count(compared=len(rows), runs=len(runs), **means)
    run.note(rows=rows)


EXPLAINED = (
    "Each row is the same pretraining for each seed (first weights and order of the data). *loss*: "
    "of held-out documents after the last step, nats a token, mean and standard deviation over the "
    "seeds; of routings that leak the causal one. *minus {baseline}*: mean of the differences seed "
    "by seed, with its 95 % interval (Student's t): one that contains 0 says nothing. *mean "
    "routing*: what the loss changes when every token's weights are replaced by their mean; near "
    "0, the router decides nothing."
)


def held_out_loss(name: str, counts: Mapping[str, float]) -> float:
    """Loss by which a training is judged, the causal one where its routing leaks.

    Raises DataError for a training without one.
    """
    loss = counts.get("causal_loss", counts.get("validation_loss"))
    if loss is None:
        raise DataError(
            f"{KEY}: the training {name} has no held-out loss: no block of validation could be cut "
            "when it was made. Pack with a larger pack.validation_fraction"
        )
    return loss


def spread(losses: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1); None for the deviation of one."""
    return {
        "loss": statistics.fmean(losses),
        "loss ±": statistics.stdev(losses) if len(losses) > 1 else None,
    }


def paired(losses: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float | None]:
    """Mean of the differences to the baseline over the seeds that both have, and the bounds of its
    interval, which needs two; None where there is none."""
    from scipy import stats

    differences = [loss - baseline[seed] for seed, loss in losses.items() if seed in baseline]
    found: dict[str, float | None] = dict.fromkeys(("difference", "low", "high"))
    if differences:
        found["difference"] = mean = statistics.fmean(differences)
        if (number := len(differences)) > 1:
            quantile = float(stats.t.ppf((1 + LEVEL) / 2, number - 1))
            reach = quantile * statistics.stdev(differences) / math.sqrt(number)
            found["low"], found["high"] = mean - reach, mean + reach
    return found


MEANS = {
    "entropy": "routing_entropy",
    "mean routing": "routing_effect",
    "tokens a second": "tokens_per_second",
}
"""Column -> count of the training, whose mean over seeds it shows."""


def _means(counts: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    return {
        column: statistics.fmean(one[name] for one in counts)
        if all(name in one for one in counts)
        else None
        for column, name in MEANS.items()
    }


def _shown(row: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    """A row as a person reads it."""
    difference = ""
    if row["routing"] != baseline and row["difference"] is not None:
        difference = f"{row['difference']:+.4f}"
        if row["low"] is not None:
            difference += f" ({row['low']:+.4f} to {row['high']:+.4f})"
    deviation = "" if row["loss ±"] is None else f" ± {row['loss ±']:.4f}"

    def or_nothing(column: str, form: str) -> str:
        return "" if row[column] is None else form.format(row[column])

    return {
        "routing": row["routing"],
        "loss": f"{row['loss']:.4f}{deviation}",
        f"minus {baseline}": difference,
        "mean routing": or_nothing("mean routing", "{:+.4f}"),
        "entropy": or_nothing("entropy", "{:.3f}"),
        "tokens a second": or_nothing("tokens a second", "{:,.0f}"),
        "seeds": row["seeds"],
    }
