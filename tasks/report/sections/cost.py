"""Cost of a run: hours, FLOPs, MFU and energy of every training, from what it recorded.

FLOPs of a token are those of a step's recorded speed: TFLOPs a second of all devices by tokens a
second, both of the same reading (model/train/callbacks/speed.py). Energy is the stage's
count `energy_joules`, which stages write where the driver told it in every session of the training
(model/train/callbacks/energy.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from model.train.run.folder import METRICS_FILE
from tasks.core.markdown import markdown_table
from tasks.report.data import ReportData, Training
from tasks.report.language import Writer
from tasks.report.results import percent
from tasks.report.sections.provenance import seconds_of_all
from tasks.report.trace.numbers import Known, computed, count_place, known, place_in

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
    share = fmean(mfu.values) if mfu else None
    return Cost(
        seconds=training.counts.get("seconds"),
        processes=processes,
        flops=flops,
        # More than all of a peak: it was measured while the machine did other work.
        mfu=share if share is not None and share <= 1 else None,
        mfu_is_measured=datasheet is None,
        joules=training.counts.get("energy_joules"),
    )


def device_hours(data: ReportData, name: str) -> Known | None:
    """Hours of a training times its processes; None where they were not recorded."""
    stage = data.stages.get(name)
    seconds = known(stage, f"{name}, seconds of wall clock", "counts", "seconds")
    processes = known(stage, f"{name}, processes", "notes", "num_processes")
    if seconds is None or processes is None:
        return None
    return computed(f"{name}, device hours", "hours", seconds, processes)


def cost_section(data: ReportData, say: Writer) -> str:
    """Format the cost of every training, and the hours of all stages."""
    if not data.trainings:
        return f"*{say('not_run')}.*"
    rows = [_row(data, training, say) for training in data.trainings.values()]
    parts = [markdown_table(rows, right=list(rows[0])[1:]), say("cost.legend")]
    if (seconds := seconds_of_all(data)) is not None:
        stages = computed("stages of this report", "number", *seconds.parts)
        hours = say.known(lambda value: f"{value / 3600:,.3f}", seconds)
        parts.append(say("cost.total", stages=say.known(str, stages), hours=hours))
    return "\n\n".join(parts)


def _row(data: ReportData, training: Training, say: Writer) -> dict[str, str]:
    name, stage = training.name, data.stages.get(training.name)
    processes = stage.manifest["notes"].get("num_processes") if stage else None
    cost = cost_of(training, processes)

    def cell(form: str | Callable[[Any], str], number: Known | None) -> str:
        return say.known(form, number, "not_measured")

    def counted(field: str, about: str) -> Known | None:
        value = training.counts.get(field)
        if value is None:
            return None
        return Known(value=value, about=f"{name}, {about}", place=count_place(stage, field))

    def measured(value: float | None, about: str, how: str) -> Known | None:
        if value is None:
            return None
        place = place_in(stage, METRICS_FILE, how=how)
        return Known(value=value, about=f"{name}, {about}", place=place)

    mfu_of = "perf/mfu_measured_peak" if cost.mfu_is_measured else "perf/mfu"
    mark = " (m)" if cost.mfu_is_measured else ""
    row = {
        "model": name,
        "tokens": cell("{:,.0f}".format, counted("tokens", "tokens trained on")),
        "hours": cell(hours_text, counted("seconds", "seconds of wall clock")),
        "device hours": cell("{:,.3f}".format, device_hours(data, name)),
        "FLOPs": cell(
            "{:.3g}".format, measured(cost.flops, "FLOPs", "FLOPs of a token times tokens")
        ),
        "MFU %": cell(
            lambda share: percent(share) + mark,
            measured(cost.mfu, "share of peak FLOPs", f"mean of {mfu_of}"),
        ),
        "energy, kWh": cell(
            lambda joules: f"{joules / JOULES:,.3g}", counted("energy_joules", "joules")
        ),
    }
    return {say(f"column.{column}"): cell for column, cell in row.items()}


def hours_text(seconds: float) -> str:
    """Format seconds as hours, alike in the report and in cards."""
    return f"{seconds / 3600:,.3f}"
