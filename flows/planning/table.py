"""A forecast as tables for a terminal."""

from collections.abc import Iterator

from common.disk import format_bytes
from flows.planning.cautions import short
from flows.planning.changes import Change
from flows.planning.forecast import Forecast
from model.cost.training import Hours, Training

Rows = list[dict[str, str]]

MEMORY = {
    "weights": "weights, fp32 shard",
    "gradients": "gradients, fp32",
    "optimizer": "optimizer's state, fp32 shard",
    "gathered": "gathered weights",
    "activations": "activations of a micro-batch",
    "loss": "logits and gradients of the loss",
    "runtime": "CUDA, NCCL, allocator (assumed)",
    "total": "in all",
}
PARTS = {
    "embedding": "embedding",
    "attention": "attention",
    "ffn": "experts, or the dense FFN",
    "router": "router",
    "norms": "norms",
    "head": "head",
    "total": "in all",
    "active": "active for a token",
}
MONTH = 730
"""Hours of a month; above a tenth of it days are shown too."""


def tables(forecast: Forecast) -> Iterator[tuple[str, Rows]]:
    """Yield (title, rows) of each table that has rows."""
    if forecast.sources:
        yield _sources_title(forecast), _sources(forecast)
    training = forecast.pretraining
    if training is not None:
        yield "parameters", _parameters(training)
        if training.memory:
            ranks = f"{training.ranks} ranks, {training.accumulation} micro-batches a step"
            where = "GPU" if training.memory["runtime"] else "process"
            yield f"memory of one {where}, {ranks}", _memory(training)
    if forecast.gpus:
        how = f"at {100 * forecast.mfu:.0f} % of the peak ({forecast.mfu_source})"
        yield f"pretraining, {how}", [_gpu(row) for row in forecast.gpus]
    if forecast.finetunings:
        yield "fine-tunings", _finetunings(forecast)
    done = ("acquire", "finished")
    known = [
        row
        for row in forecast.stages
        if row["hours"] is not None and (str(row["stage"]).split()[0], row["state"]) != done
    ]
    if known:
        yield (
            "hours by stage, as far as they are known",
            [
                {
                    "stage": str(row["stage"]),
                    "state": str(row["state"]),
                    "hours": hours(row["hours"]),
                    "from": str(row["basis"]),
                }
                for row in known
            ],
        )
    if forecast.disk:
        yield f"disk ({format_bytes(forecast.free_bytes)} free)", _disk(forecast)
    if forecast.changes:
        yield "beside the other configuration", [_change(change) for change in forecast.changes]


def headline(forecast: Forecast) -> str:
    """One line that says the most of it."""
    training = forecast.pretraining
    if training is None:
        return f"{forecast.name}: no pretraining"
    parameters = short(training.parameters["total"])
    line = f"{forecast.name}: {parameters} parameters"
    if not training.steps:
        return line
    line += f", {short(training.tokens)} tokens in {training.steps:,} steps"
    line += f", {training.flops_per_token:.3g} FLOPs a token, {training.flops:.3g} in all"
    if len(forecast.gpus) == 1:
        row = forecast.gpus[0]
        line += f", {hours(row.hours)} on {row.count} x {row.gpu}"
    elif forecast.cpu_hours is not None:
        line += f", {hours(forecast.cpu_hours)} on this processor"
    return line


def hours(value: object) -> str:
    """Hours for people, with days where they are many."""
    if not isinstance(value, int | float):
        return ""
    if value < 1 / 60:
        return f"{3600 * value:.1f} s"
    if value < 1:
        return f"{60 * value:.1f} min"
    if value > MONTH / 10:
        return f"{value:,.0f} h ({value / 24:.1f} days)"
    return f"{value:,.1f} h"


def _sources_title(forecast: Forecast) -> str:
    total = forecast.tokens_available
    return "corpora" if total is None else f"corpora: {short(total)} tokens"


def _sources(forecast: Forecast) -> Rows:
    return [
        {
            "corpus": row.source,
            "stored": "" if row.stored_bytes is None else format_bytes(row.stored_bytes),
            "tokens": "" if row.tokens is None else short(row.tokens),
            "trained on": "" if row.trained_tokens is None else short(row.trained_tokens),
            "epochs needed": "" if row.trained_epochs is None else f"{row.trained_epochs:.2f}",
            "from": row.basis,
        }
        for row in forecast.sources
    ]


def _parameters(training: Training) -> Rows:
    return [
        {"part": PARTS[part], "parameters": f"{number:,}"}
        for part in PARTS
        if (number := training.parameters.get(part)) is not None
    ]


def _memory(training: Training) -> Rows:
    return [
        {"part": name, "GiB": f"{training.memory[part] / 2**30:.2f}"}
        for part, name in MEMORY.items()
    ]


def _gpu(row: Hours) -> dict[str, str]:
    fits = {True: "yes", False: "no", None: ""}[row.fits]
    cost = "" if row.cost_usd is None else f"{row.cost_usd[0]:,.0f} to {row.cost_usd[1]:,.0f}"
    least, most = row.hours_range
    return {
        "GPUs": f"{row.count} x {row.gpu}",
        "fits": f"{fits} ({row.memory_gib:g} GiB)",
        "tokens/s": short(row.tokens_per_second),
        "time": hours(row.hours),
        "50 to 30 %": "" if least == most else f"{hours(least)} to {hours(most)}",
        "kWh": f"{row.energy_kwh:,.0f}",
        "US$": cost,
    }


def _finetunings(forecast: Forecast) -> Rows:
    return [
        {
            "run": row.stage,
            "samples": "" if row.samples is None else f"{row.samples:,}",
            "steps": "" if row.steps is None else f"{row.steps:,}",
            "tokens": "" if row.tokens is None else short(row.tokens),
            "from": row.basis,
        }
        for row in forecast.finetunings
    ]


def _disk(forecast: Forecast) -> Rows:
    rows = [
        {
            "files": row.what + ("" if row.lasting else " (for a while)"),
            "size": "" if row.bytes is None else format_bytes(row.bytes),
            "from": row.basis,
        }
        for row in forecast.disk
    ]
    total = sum(row.bytes or 0 for row in forecast.disk if row.lasting)
    return [*rows, {"files": "in all, in the end", "size": format_bytes(total), "from": ""}]


def _change(change: Change) -> dict[str, str]:
    reasons = "\n".join(change.reasons)
    if change.unkeyed:
        reasons += ("\n" if reasons else "") + "in no key: " + "; ".join(change.unkeyed)
    redone = change.state in ("redone", "new")
    return {
        "stage": change.stage,
        "": change.state,
        "time": hours(change.hours) if redone else "",
        "because": reasons,
    }
