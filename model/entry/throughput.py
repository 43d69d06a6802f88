"""Throughput: the program that measures one configuration, in every rank, and nothing else.

    python -m model.entry.launch NUM_PROCESSES model.entry.throughput JOB.json

Reads a `ThroughputJob` and writes its output folder's result.json, also when the configuration does
not fit into memory or cannot run here: then that is the result. Exit codes: 0 measured; 3 there is
a result that says why not; 2 bad input; 1 anything else. A process of its own for each
configuration leaves nothing of the last one in memory.
"""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from common.config import from_json
from common.errors import ConfigError, SteelError
from common.paths import ROOT
from common.provenance import software_versions
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.device import device_name
from model.train.throughput.measure import Result, Status, ThroughputJob, measure

log = logging.getLogger("model.entry.throughput")

EXIT_NO_FIGURES = 3
"""Exit code where result.json says why the configuration could not be measured."""

OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How others than torch's allocator say it: the CPU's; a kernel's launch, NCCL; cuBLAS."""


def throughput(job: ThroughputJob) -> int:
    """Measure and write result.json; returns the exit code. Raises SteelError for bad input."""
    job.check()
    with distributed_context() as ranks:
        try:
            result = measure(job, ranks)
        except Exception as error:
            status = _status(error)
            if status is None:
                raise
            _give_up(status, error, job, ranks)
        if ranks.is_main:
            result.write(Path(job.output))
            log.info(
                "%.0f tokens/s a device, %.2f GB, step %.3f s",
                result.tokens_per_second_per_device,
                result.memory_gb,
                result.step_seconds,
            )
    return 0


def run_alone(job: ThroughputJob, num_processes: int) -> Result:
    """Measure in processes of their own, started from here, and wait for the result.

    Raises ConfigError for a job that no machine could run, RuntimeError with the last lines of the
    log when the entry broke.
    """
    job.check()
    folder = Path(job.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    path = folder / "job.json"
    path.write_text(json.dumps(dataclasses.asdict(job), indent=1), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "model.entry.launch",
        str(num_processes),
        __spec__.name,
        str(path),
    ]
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    with (folder / "throughput.log").open("wb") as output:
        child = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            check=False,
        )
    if (folder / "result.json").is_file():
        return Result.read(folder)
    tail = (folder / "throughput.log").read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{tail}")


def _status(error: Exception) -> Status | None:
    """What an exception says about the configuration; None when it is a fault of ours."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return "out of memory"
    if isinstance(error, ConfigError | NotImplementedError | ImportError):
        return "not possible here"
    if "No available kernel" in text:  # no attention backend of those that are allowed
        return "not possible here"
    return None


def _give_up(
    status: Status, error: Exception, job: ThroughputJob, ranks: DistributedContext
) -> None:
    """Write down why, and end at once: the other ranks may be waiting in a collective call."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
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
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    disable_progress_bar()
    if len(argv) != 1:
        log.error("usage: python -m model.entry.throughput JOB.json")
        return 2
    try:
        return throughput(from_json(ThroughputJob, Path(argv[0])))
    except SteelError as error:
        log.error("%s", error)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
