"""Cost of a run: hours, FLOPs, MFU and energy of every training, from what it recorded.

FLOPs of a token are those of a step's recorded speed: TFLOPs a second of all devices by tokens a
second, both of the same reading (model/train/callbacks/speed.py). Energy is the stage's
count `energy_joules`, which stages write where the driver told it in every session of the training
(model/train/callbacks/energy.py).
"""

from dataclasses import dataclass
from statistics import fmean

from model.train.run.folder import METRICS_FILE
from tasks.core.markdown import markdown_table
from tasks.report.data import ReportData, Training
from tasks.report.language import Writer
from tasks.report.trace.numbers import Place, count_place, place_in

JOULES = 3_600_000
"""Joules of a kilowatt hour."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one training; None for what was not measured."""

    seconds: float | None
    """Wall clock of the stage."""
    processes: int | None
    """Processes at its end, one a device."""
    flops: float | None
    """Forward and backward of all tokens, without recomputation."""
    mfu: float | None
    """Mean share of the peak that was reached."""
    mfu_is_measured: bool
    """True if the peak is that of a measured matrix product, not of a datasheet."""
    joules: float | None
    """Energy of the devices."""


def cost_of(training: Training, processes: int | None) -> Cost:
    """Cost of a training from its curves and counts."""
    curves = training.curves
    per_device, speed = curves.get("perf/tflops_per_device"), curves.get("perf/tokens_per_second")
    flops = None
    tokens = training.counts.get("tokens")
    if (
        per_device
        and speed
        and processes
        and tokens
        and len(per_device.values) == len(speed.values)
    ):
        # Alike in every reading, but for rounding, unless the number of processes has changed.
        last = per_device.values[-1] * 1e12 * processes / speed.values[-1]
        flops = last * tokens
    datasheet, measured = curves.get("perf/mfu"), curves.get("perf/mfu_measured_peak")
    mfu = datasheet or measured
    return Cost(
        seconds=training.counts.get("seconds"),
        processes=processes,
        flops=flops,
        mfu=fmean(mfu.values) if mfu else None,
        mfu_is_measured=datasheet is None,
        joules=training.counts.get("energy_joules"),
    )


def cost_section(data: ReportData, say: Writer) -> str:
    """Format the cost of every training, and the hours of all stages."""
    if not data.trainings:
        return f"*{say('not_run')}.*"
    rows = [_row(data, training, say) for training in data.trainings.values()]
    hours = sum(row.seconds for row in data.provenance) / 3600
    return "\n\n".join(
        [
            markdown_table(rows, right=list(rows[0])[1:]),
            say("cost.legend"),
            say("cost.total", stages=len(data.provenance), hours=f"{hours:,.2f}"),
        ]
    )


def _row(data: ReportData, training: Training, say: Writer) -> dict[str, str]:
    stage = data.stages.get(training.name)
    processes = stage.manifest["notes"].get("num_processes") if stage else None
    cost = cost_of(training, processes)

    def number(value: float | None, shown: str, about: str, place: Place | None) -> str:
        if value is None:
            return say("not_measured")
        return say.number(shown, f"{training.name}, {about}", value, place)

    def counted(name: str) -> Place | None:
        return count_place(stage, name)

    def computed(how: str) -> Place | None:
        return place_in(stage, METRICS_FILE, how=how)

    hours = "" if cost.seconds is None else f"{cost.seconds / 3600:,.3f}"
    device = None
    if cost.seconds is not None and cost.processes is not None:
        device = cost.seconds / 3600 * cost.processes
    tokens = training.counts.get("tokens")
    shown_mfu = "" if cost.mfu is None else f"{100 * cost.mfu:.1f}"
    row = {
        "model": training.name,
        "tokens": number(tokens, f"{tokens or 0:,.0f}", "tokens trained on", counted("tokens")),
        "hours": number(cost.seconds, hours, "seconds of wall clock", counted("seconds")),
        "device hours": number(
            device, f"{device or 0:,.3f}", "device hours", computed("seconds times processes")
        ),
        "FLOPs": number(
            cost.flops, f"{cost.flops or 0:.3g}", "FLOPs", computed("FLOPs of a token times tokens")
        ),
        "MFU %": number(
            cost.mfu,
            f"{shown_mfu} (m)" if cost.mfu_is_measured else shown_mfu,
            "share of peak FLOPs",
            computed(
                "mean of perf/mfu_measured_peak" if cost.mfu_is_measured else "mean of perf/mfu"
            ),
        ),
        "energy, kWh": number(
            cost.joules, f"{(cost.joules or 0) / JOULES:,.3g}", "joules", counted("energy_joules")
        ),
    }
    return {say(f"column.{column}"): cell for column, cell in row.items()}
