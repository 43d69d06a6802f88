"""Targets of the training step, and each configuration beside the best, from rows of bench_train.

Imports no torch: a GPU session judges rows of several runs with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def targets(rows: Sequence[Mapping[str, Any]], *, judged: bool) -> list[dict[str, Any]]:
    """Each target with its value and whether it was met; None where it could not be judged."""
    done = [r for r in rows if r["status"] == "done"]
    speed, memory = "tokens_per_second_per_device", "memory_gb"

    def ratio(field: str, *theirs: str) -> float | None:
        """Of `best`, over the larger of these at a micro-batch of both."""
        pairs = [(best_beside(r, done), r) for r in done if r["name"] in theirs]
        found = [(peer[field], best[field]) for best, peer in pairs if best is not None]
        return float(max(found)[1] / max(found)[0]) if found else None

    utilisation = [
        r["mfu_datasheet"]
        for r in done
        if r["name"].split(", micro-batch")[0] == "best" and r["mfu_datasheet"] is not None
    ]
    wanted = [
        ("MFU of the datasheet's peak, best", max(utilisation, default=None), ">=", 0.50),
        ("throughput, best / plain", ratio(speed, "plain"), ">=", 1.6),
        ("memory, best / plain", ratio(memory, "plain"), "<=", 0.6),
        ("throughput, best / liger", ratio(speed, "liger", "liger compiled"), ">=", 1.1),
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


def best_beside(
    row: Mapping[str, Any], done: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """`best` at a row's micro-batch, beside which its figures may be put; None where there is none
    among the rows that are done."""
    own = row["micro_batch_size"]
    return next((r for r in done if r["name"] == "best" and r["micro_batch_size"] == own), None)


def beside_best(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Name of each other configuration, its tokens/s over those of `best` at the same micro-batch,
    and its memory over that of `best`. Those without such a `best` are left out."""
    done = [row for row in rows if row["status"] == "done"]
    return [
        (
            row["name"],
            row["tokens_per_second_per_device"] / best["tokens_per_second_per_device"],
            row["memory_gb"] / best["memory_gb"],
        )
        for row in done
        if row["name"] != "best" and (best := best_beside(row, done)) is not None
    ]
