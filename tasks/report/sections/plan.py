"""The report's section on what was predicted of the pretraining, and what came.

The prediction is the plan.json that the stage wrote when it first started (tasks/pretrain).
"""

import json
from dataclasses import dataclass
from typing import Any

from model.train.run.folder import METRICS_FILE, PLAN_FILE
from tasks.core.markdown import markdown_table
from tasks.core.stage import StageResult
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.trace.numbers import Place, count_place, place_in, pointer

GIB = 2**30
GB = 1e9
MEMORY = "perf/memory_peak_gib"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity, predicted and measured."""

    name: str
    """Key of its name, after `plan.`."""
    predicted: float | None
    """None where nothing was predicted."""
    actual: float | None
    """None where nothing was measured."""
    pattern: str
    """Format of both."""
    field: str
    """Name in plan.json."""
    place: Place | None
    """Origin of the measured one."""


def plan_section(data: ReportData, say: Writer) -> str:
    """Format predictions beside results; says so where a run has no plan.json."""
    stage = data.stages.get("base")
    if stage is None:
        return f"*{say('not_run')}.*"
    plan = _plan(stage)
    if plan is None:
        return f"*{say('plan.absent')}*"
    rows = [_cells(row, stage, say) for row in _rows(data, stage, plan)]
    legend = say("plan.legend")
    return "\n\n".join([markdown_table(rows, right=list(rows[0])[1:]), legend])


def _plan(stage: StageResult) -> dict[str, Any] | None:
    path = stage.folder / PLAN_FILE
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return plan if isinstance(plan, dict) else None


def _rows(data: ReportData, stage: StageResult, plan: dict[str, Any]) -> list[Row]:
    training = data.trainings.get("base")
    counts = stage.manifest["counts"]
    peak = training.curves.get(MEMORY) if training is not None else None
    files = stage.manifest.get("files", [])
    disk = sum(entry["bytes"] for entry in files) if files else None

    def planned(field: str, unit: float = 1.0) -> float | None:
        value = plan.get(field)
        return value / unit if isinstance(value, int | float) else None

    def taken(field: str, unit: float = 1.0) -> float | None:
        value = counts.get(field)
        return None if value is None else value / unit

    in_files = place_in(stage, "manifest.json", how="sum of the sizes of its files")
    in_metrics = place_in(stage, METRICS_FILE, how=f"largest {MEMORY}")
    return [
        _row("tokens", planned("tokens"), taken("tokens"), ",.0f", count_place(stage, "tokens")),
        _row("steps", planned("steps"), taken("steps"), ",.0f", count_place(stage, "steps")),
        _row(
            "seconds",
            planned("seconds", 3600),
            taken("seconds", 3600),
            ",.3f",
            count_place(stage, "seconds"),
        ),
        _row(
            "memory_bytes",
            planned("memory_bytes", GIB),
            max(peak.values) if peak else None,
            ",.2f",
            in_metrics,
        ),
        _row(
            "disk_bytes",
            planned("disk_bytes", GB),
            None if disk is None else disk / GB,
            ",.3f",
            in_files,
        ),
    ]


def _row(
    field: str, predicted: float | None, actual: float | None, pattern: str, place: Place | None
) -> Row:
    return Row(
        name=field, predicted=predicted, actual=actual, pattern=pattern, field=field, place=place
    )


def _cells(row: Row, stage: StageResult, say: Writer) -> dict[str, str]:
    def number(value: float | None, pattern: str, about: str, place: Place | None) -> str:
        if value is None:
            return say("not_measured")
        return say.number(format(value, pattern), f"base, {row.field}: {about}", value, place)

    in_plan = place_in(stage, PLAN_FILE, pointer=pointer(row.field))
    share = 100 * row.actual / row.predicted if row.actual is not None and row.predicted else None
    how = place_in(stage, PLAN_FILE, how=f"actual of planned {row.field}")
    cells = {
        "quantity": say(f"plan.{row.name}"),
        "planned": say("plan.not_planned")
        if row.predicted is None
        else number(row.predicted, row.pattern, "planned", in_plan),
        "actual": number(row.actual, row.pattern, "actual", row.place),
        "actual of planned %": number(share, ",.1f", "actual of planned", how),
    }
    return {say(f"column.{column}"): cell for column, cell in cells.items()}
