"""The paper's Table 2 with measured figures beside it: JSON values, formatted rows, a page.

Speeds of different machines compare by ratio: every row is given relative to the baseline, Exp8,
on both sides. A row that was not measured gives the reason; without a measured baseline there is
no ratio.
"""

from collections.abc import Mapping
from typing import Any

from model.train.throughput.measure import Result
from tasks.core.markdown import NOT_RUN, markdown_table
from tasks.core.paper.tables import KernelExperiment, Table2

TINY = "a tiny model on a CPU, which shows that the table can be made and says nothing about speed"


def measured_table(results: Mapping[str, Result], paper: Table2, *, tiny: bool) -> dict[str, Any]:
    """Make the table as JSON values.

    Args:
        results: `exp<number>` of the paper's columns, or any other name -> figures.
        paper: Table 2.
        tiny: True if the sizes are not the paper's.
    """
    baseline = results.get(f"exp{paper.baseline}")
    any_result = next(iter(results.values()))
    done = [result for result in results.values() if result.status == "done"]
    size = f"{done[0].parameters / 1e6:,.0f} M parameters" if done else "nothing measured"
    rows = []
    for name, result in results.items():
        number = name.removeprefix("exp")
        rows.append(
            {
                **(paper_row(paper, paper.experiment(int(number))) if number.isdigit() else {}),
                "name": f"{name} (tiny)" if tiny else name,
                **_figures(result, baseline),
            }
        )
    where = f"{any_result.num_devices} x {any_result.device}"
    return {
        "title": f"Table 2, {TINY if tiny else 'measured'}: {size}, {where}",
        "tiny": tiny,
        "device": any_result.device,
        "num_devices": any_result.num_devices,
        "software": any_result.software,
        "baseline": f"exp{paper.baseline}",
        "paper_device": paper.device,
        "rows": rows,
    }


def paper_row(paper: Table2, experiment: KernelExperiment) -> dict[str, Any]:
    """One of the paper's columns as a row, not measured here."""
    baseline = paper.experiment(paper.baseline)
    speed, memory = experiment.tokens_per_second_per_gpu, experiment.memory_gb
    return {
        "name": f"exp{experiment.number}",
        "attention": experiment.attention,
        "rope": experiment.rope,
        "rms_norm": experiment.rms_norm,
        "loss": experiment.loss,
        "parameters": "sharded" if experiment.shard_parameters else "whole",
        "paper_tokens_per_second_per_gpu": speed,
        "paper_speed_ratio": speed / baseline.tokens_per_second_per_gpu,
        "paper_memory_gb": memory,
        "paper_memory_ratio": memory / baseline.memory_gb,
        "kernels": {},
        "status": NOT_RUN,
        "reason": "",
    }


def _figures(result: Result, baseline: Result | None) -> dict[str, Any]:
    """Measured figures, and their ratio to the baseline where that was measured too."""
    row: dict[str, Any] = {
        "kernels": result.kernels,
        "status": result.status,
        "reason": result.reason,
    }
    if result.status != "done":
        return row
    row |= {
        "tokens_per_second_per_gpu": result.tokens_per_second_per_device,
        "memory_gb": result.memory_gb,
        "mfu_datasheet": result.mfu_datasheet,
        "mfu_measured": result.mfu_measured,
    }
    if baseline is not None and baseline.status == "done":
        speed = baseline.tokens_per_second_per_device
        row["speed_ratio"] = result.tokens_per_second_per_device / speed
        row["memory_ratio"] = result.memory_gb / baseline.memory_gb
    return row


def format_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Format a row: equal columns for every row, the paper's figures beside ours."""

    def number(key: str, form: str) -> str:
        value = row.get(key)
        return "" if value is None else format(value, form)

    status = row["status"]
    speed = number("tokens_per_second_per_gpu", ",.0f") if status == "done" else status
    memory = "memory_gb" if status == "done" else ""
    return {
        "": row["name"],
        "attention": row.get("attention", "torch's choice"),
        "RoPE": row.get("rope", row["kernels"].get("rope", "")),
        "RMSNorm": row.get("rms_norm", row["kernels"].get("rms_norm", "")),
        "loss": row.get("loss", row["kernels"].get("cross_entropy", "")),
        "parameters": row.get("parameters", "whole"),
        "tokens/s/GPU": speed,
        "paper's": number("paper_tokens_per_second_per_gpu", ",.0f"),
        "x Exp8": number("speed_ratio", ".2f"),
        "paper's x Exp8": number("paper_speed_ratio", ".2f"),
        "GB": number(memory, ".1f"),
        "paper's GB": number("paper_memory_gb", ".0f"),
        "GB / Exp8": number("memory_ratio", ".2f"),
        "paper's GB / Exp8": number("paper_memory_ratio", ".2f"),
        "MFU %": _percent(row),
    }


def format_page(table: Mapping[str, Any]) -> str:
    """Format the table as a page of its own."""
    rows = [format_row(row) for row in table["rows"]]
    lines = [
        f"# {table['title']}",
        "",
        markdown_table(rows),
        "",
        f"The paper measured on {table['paper_device']}; ratios are to {table['baseline']} on the "
        "same machine. A step is forward, backward, clip and AdamW on random tokens; tokens/s is "
        "the median, GB the peak of allocated memory. MFU is of the datasheet's peak, or of the "
        "measured matmul speed (m) where no datasheet is known.",
        "",
        "Software: " + ", ".join(f"{k} {v}" for k, v in table["software"].items()) + ".",
    ]
    reasons = [f"- {row['name']}: {row['reason']}" for row in table["rows"] if row["reason"]]
    return "\n".join([*lines, *(["", "Not measured:", "", *reasons] if reasons else []), ""])


def _percent(row: Mapping[str, Any]) -> str:
    if row["status"] != "done":
        return ""
    if row["mfu_datasheet"] is not None:
        return f"{100 * row['mfu_datasheet']:.1f}"
    return f"{100 * row['mfu_measured']:.1f} (m)"
