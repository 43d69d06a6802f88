"""Throughput: the program that measures one configuration, in every rank, and nothing else.

    python -m model.entry.launch NUM_PROCESSES model.entry.throughput JOB.json

Reads a `ThroughputJob` and writes its output folder's result.json, also when the configuration does
not fit into memory or cannot run here: then that is the result. Exit codes: 0 measured; 3 there is
a result that gives the reason; 2 bad input; 1 anything else. A process of its own for each
configuration leaves nothing of the last one in memory.
"""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from common.child import Child, python, run_job
from common.config import validate
from common.errors import ConfigError, StageError, first_line
from common.files import write_json
from common.processes import die_with_parent
from common.provenance import software_versions
from model.entry.launch import environment
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.device import device_name
from model.train.throughput.measure import Result, Status, ThroughputJob, measure

log = logging.getLogger("model.entry.throughput")

EXIT_NO_FIGURES = 3
"""Exit code when result.json gives the reason why the configuration could not be measured."""

OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of others than torch's allocator: the CPU's; a kernel's launch, NCCL; cuBLAS."""


def throughput(job: ThroughputJob) -> int:
    """Measure and write result.json; returns the exit code. Raises SteelError for bad input."""
    validate(job, "throughput")
    with distributed_context() as ranks:
        try:
            result = measure(job, ranks)
        except Exception as error:
            status = _outcome(error)
            if status is None:
                raise
            _end_without_figures(status, error, job, ranks)
        if ranks.is_main:
            result.write(Path(job.output))
            log.info(
                "%.0f tokens/s a device, %.2f GB, step %.3f s",
                result.tokens_per_second_per_device,
                result.memory_gb,
                result.step_seconds,
            )
    return 0


def measure_in_subprocess(
    job: ThroughputJob, num_processes: int, *, limit: float | None = None
) -> Result:
    """Measure in processes of their own, started from here, and wait for the result.

    limit: seconds after which they are killed; None: none.

    Raises ConfigError for a job that no machine could run, StageError for one that took longer than
    its limit, and what ended the entry otherwise.
    """
    validate(job, "throughput")
    path = Path(job.output) / "throughput.json"
    (path.parent / "result.json").unlink(missing_ok=True)
    write_json(path, dataclasses.asdict(job))
    command = python("model.entry.launch", num_processes, __spec__.name, path)
    with Child(command, path, env=environment(num_processes)) as child:
        try:
            child.process.wait(limit)
        except subprocess.TimeoutExpired:
            child.grace = 0
            raise StageError(f"throughput: not measured within {limit:g} s") from None
    if (path.parent / "result.json").is_file():
        return Result.read(path.parent)
    raise child.failure(f"throughput: {__spec__.name}")


def _outcome(error: Exception) -> Status | None:
    """Outcome that an exception stands for; None when it is a fault of ours."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return "out of memory"
    if isinstance(error, ConfigError | NotImplementedError | ImportError):
        return "not possible here"
    if "No available kernel" in text:  # no attention backend of those that are allowed
        return "not possible here"
    return None


def _end_without_figures(
    status: Status, error: Exception, job: ThroughputJob, ranks: DistributedContext
) -> None:
    """Write the reason and end at once: the other ranks may be waiting in a collective call."""
    first = first_line(error)
    log.warning("%s: %s", status, first)
    Result(
        status=status,
        reason=first,
        device=device_name(ranks.device),
        num_devices=ranks.world_size,
        software=software_versions(),
    ).write(Path(job.output))
    sys.stderr.flush()
    os._exit(EXIT_NO_FIGURES)


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    # torchrun's ranks are in sessions of their own: a launch that is killed when its time is over
    # would leave them on their GPUs.
    die_with_parent(signal.SIGKILL)
    disable_progress_bar()
    return run_job(ThroughputJob, throughput, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
