"""Prediction that a pretraining starts with, in plan.json; reports show what came beside it.

It is in no key: the same training may be predicted better later, and is the same.
"""

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from common.errors import SteelError
from common.files import write_json
from model.cost.gpus import Gpu, gpu_of_driver
from model.cost.training import ASSUMED_MFU, checkpoint_bytes, forecast, hours_on
from model.train.config import PretrainSettings
from model.train.distributed.gpus import num_gpus
from model.train.run.folder import METRICS_FILE, PLAN_FILE
from model.train.run.metrics import read_metrics
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.core.store import newest_first

SCHEMA = 1
"""Of plan.json."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed that earlier trainings of a store reached."""

    mfu: float | None
    """Share of a datasheet's peak; None: none was measured on a GPU."""
    flops_per_second: float | None
    """FLOP/s of all processes of the newest pretraining on a CPU."""
    source: str
    """The run that it was measured in."""


def predict(
    run: StageRun,
    settings: PretrainSettings,
    *,
    vocabulary: int,
    steps: int,
    ranks: int,
    ranks_per_node: int,
) -> None:
    """Write plan.json, unless an earlier start of the run did. A prediction never stops a run."""
    path = run.folder / PLAN_FILE
    if path.exists():
        return
    try:
        plan = _plan(run.store, settings, vocabulary, steps, ranks, ranks_per_node)
    except (SteelError, OSError, ArithmeticError) as error:
        run.log.info("%s: no plan is written: %s", run.stage, error)
        return
    write_json(path, plan)


def _plan(
    store: Path | None,
    settings: PretrainSettings,
    vocabulary: int,
    steps: int,
    ranks: int,
    ranks_per_node: int,
) -> dict[str, Any]:
    on_gpu = num_gpus() > 0
    rows = -(-vocabulary // settings.vocab_multiple) * settings.vocab_multiple
    training = forecast(
        settings,
        vocabulary=rows,
        steps=steps,
        ranks=ranks,
        ranks_per_node=ranks_per_node,
        gpu=on_gpu,
    )
    speed = (
        speed_of(store) if store is not None else Speed(mfu=None, flops_per_second=None, source="")
    )
    gpu = _this_gpu() if on_gpu else None
    seconds, basis = None, ""
    if gpu is not None:
        share = speed.mfu or ASSUMED_MFU
        seconds = 3600 * hours_on(training, gpu, ranks, mfu=share).hours
        basis = f"{share:.0%} of {ranks} x {gpu.name}, {speed.source or 'assumed'}"
    elif speed.flops_per_second and not on_gpu:
        seconds, basis = training.flops / speed.flops_per_second, speed.source
    weights = 4 * training.parameters["total"]
    saved = checkpoint_bytes(settings, steps, weights, training.moments)
    return {
        "schema": SCHEMA,
        "tokens": training.tokens,
        "steps": training.steps,
        "parameters": training.parameters["total"],
        "flops": training.flops,
        "seconds": seconds,
        "seconds_basis": basis,
        "memory_bytes": training.memory.get("total"),
        "disk_bytes": sum(saved.values()) + weights,
        "ranks": ranks,
    }


def speed_of(store: Path) -> Speed:
    """Speed that trainings and measurements in a store reached, by the newest that says it."""
    for result in newest_first(store, "pretrain"):
        shares = _values(result, "perf/mfu")
        if shares:
            return Speed(mfu=fmean(shares), flops_per_second=None, source=f"pretrain {result.key}")
    for result in newest_first(store, "throughput"):
        share = result.manifest["counts"].get("mfu_datasheet")
        if share:
            return Speed(mfu=share, flops_per_second=None, source=f"throughput {result.key}")
    for result in newest_first(store, "pretrain"):
        reached, ranks = _values(result, "perf/tflops_per_device"), _ranks(result)
        if reached and ranks:
            flops = 1e12 * fmean(reached) * ranks
            return Speed(mfu=None, flops_per_second=flops, source=f"pretrain {result.key}")
    return Speed(mfu=None, flops_per_second=None, source="")


def _values(result: StageResult, metric: str) -> list[float]:
    with contextlib.suppress(SteelError):
        lines = read_metrics(result.folder / METRICS_FILE)
        return [line["metrics"][metric] for line in lines if metric in line["metrics"]]
    return []


def _ranks(result: StageResult) -> int:
    ranks = result.manifest["notes"].get("num_processes")
    return ranks if isinstance(ranks, int) else 0


def _this_gpu() -> Gpu | None:
    """The first GPU of this machine; None where the driver's tool does not say."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
        return gpu_of_driver(names.splitlines()[0]) if names.strip() else None
    return None
