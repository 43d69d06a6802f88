"""Targets of the training step, and each configuration beside the best, from rows of bench_train.

Imports no torch: a GPU session judges rows of several runs with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def targets(rows: Sequence[Mapping[str, Any]], *, judged: bool) -> list[dict[str, Any]]:
    """Each target with its value and whether it was met; None where it could not be judged."""
    by_name = {r["name"]: r for r in rows if r["status"] == "done"}
    speed, memory = "tokens_per_second_per_device", "memory_gb"

    def ratio(field: str, ours: str, *theirs: str) -> float | None:
        peers = [
            by_name[name][field]
            for name in theirs
            if ours in by_name and name in by_name and same_batch(by_name[name], by_name[ours])
        ]
        return float(by_name[ours][field] / max(peers)) if peers else None

    utilisation = [
        r["mfu_datasheet"]
        for name, r in by_name.items()
        if name.startswith("best") and r["mfu_datasheet"] is not None
    ]
    wanted = [
        ("MFU of the datasheet's peak, best", max(utilisation, default=None), ">=", 0.50),
        ("throughput, best / plain", ratio(speed, "best", "plain"), ">=", 1.6),
        ("memory, best / plain", ratio(memory, "best", "plain"), "<=", 0.6),
        ("throughput, best / liger", ratio(speed, "best", "liger", "liger compiled"), ">=", 1.1),
    ]
    return [
        {
            "target": name,
            "value": value,
            "wanted": f"{sign} {bound}",
            "met": None
            if value is None or not judged
            else value >= bound
            if sign == ">="
            else value <= bound,
        }
        for name, value, sign, bound in wanted
    ]


def same_batch(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True for two rows of one micro-batch size, whose figures may be compared."""
    return bool(row["micro_batch_size"] == other["micro_batch_size"])


def beside_best(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Name of each other configuration of the same micro-batch, its tokens/s over those of `best`,
    and its memory over that of `best`. Empty where `best` was not measured."""
    done = [row for row in rows if row["status"] == "done"]
    best = next((row for row in done if row["name"] == "best"), None)
    return [
        (
            row["name"],
            row["tokens_per_second_per_device"] / best["tokens_per_second_per_device"],
            row["memory_gb"] / best["memory_gb"],
        )
        for row in done
        if best is not None and row["name"] != "best" and same_batch(row, best)
    ]
