"""Stage `throughput`: one configuration of a model ──torchrun──▶ result.json: tokens/s and memory.

A figure belongs to a machine, to versions and to our own code, so all three are part of the key. A
configuration that runs out of memory, or that a machine cannot run, is a finished stage as well,
with the reason in its result.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from common.config import StageConfig, errors_of
from common.errors import StageError, SteelError
from common.paths import ROOT
from common.provenance import software_versions
from common.ranges import Ge, Limit, Processes
from model.train.config import PretrainSettings
from model.train.distributed.device import device_name
from model.train.distributed.gpus import check_one_each, num_gpus
from model.train.throughput.measure import Attention, Result, ThroughputJob
from tasks.core.stage import StageRun, plain, stage
from tasks.core.torchrun import torchrun


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig(StageConfig):
    """Settings that are measured, and the number of devices."""

    settings: PretrainSettings
    """A run's settings; the batch is split over `num_processes`."""
    attention: Attention = "auto"
    """auto: the best that a run would take here; sdpa, flash, other: torch's own attention with the
    backend it likes, with its flash backend, or with any but that."""
    num_processes: Processes
    """Ranks, each on a GPU of its own; on a machine without one they share the processor."""
    warmup_steps: Annotated[int, Ge(1), Limit(10**6)] = 3
    """Steps before the clock starts."""
    timed_steps: Annotated[int, Ge(1), Limit(10**6)] = 10
    """Steps that are timed; their median counts."""

    def fingerprint(self) -> dict[str, Any]:
        """Machine and code that the figures depend on; and all settings, since those that change
        speed alone are measured here."""
        return machine() | {"code": code_digest(), "settings": plain(self.settings)}

    def job(self, output: Path) -> ThroughputJob:
        """Job of the ranks."""
        return ThroughputJob(
            settings=self.settings,
            attention=self.attention,
            warmup_steps=self.warmup_steps,
            timed_steps=self.timed_steps,
            output=str(output),
        )

    def check(self) -> Iterator[SteelError]:
        yield from self.job(Path()).check()
        yield from errors_of(check_one_each, self.num_processes, num_gpus())
        yield from errors_of(self.settings.check_ranks, self.num_processes)


@stage(version=1, measures=True)
def throughput(run: StageRun, config: ThroughputConfig) -> None:
    """Measure full training steps in processes of their own."""
    result_file = run.folder / "result.json"
    result_file.unlink(missing_ok=True)  # of an interrupted attempt
    job = config.job(run.folder)
    try:
        torchrun(run, "model.entry.throughput", job, num_processes=config.num_processes)
    except StageError:
        if not result_file.is_file():
            raise
    result = Result.read(run.folder)
    if result.status == "done":
        run.count(
            tokens_per_second_per_device=result.tokens_per_second_per_device,
            step_seconds=result.step_seconds,
            memory_gb=result.memory_gb,
            parameters=result.parameters,
            mfu_measured=result.mfu_measured or 0.0,
        )
        if result.mfu_datasheet is not None:
            run.count(mfu_datasheet=result.mfu_datasheet)
    else:
        run.log.warning("%s: %s (%s)", run.stage, result.status, result.reason)
    run.note(status=result.status, reason=result.reason, device=result.device)


def machine() -> dict[str, Any]:
    """The devices here and the software that drives them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "device": device_name(device),
        "num_devices": torch.cuda.device_count(),
        "software": software_versions(),
    }


@functools.cache
def code_digest() -> str:
    """Hash of the code that a step runs: model/, as it stands on disk."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "model").rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
