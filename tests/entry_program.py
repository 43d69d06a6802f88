"""A small entry for the tests of the launcher: joins a process group, counts, saves on SIGTERM."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from common.child import run_job
from common.errors import ConfigError
from common.files import write_status
from model.train.run.folder import METRICS_FILE


@dataclass(frozen=True, kw_only=True)
class Job:
    """Instruction for the entry."""

    output: str
    steps: int
    say: str = ""
    fail: str = ""
    refuse: str = ""


def work(job: Job) -> int:
    output, rank = Path(job.output), int(os.environ["RANK"])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    if job.fail:
        raise RuntimeError(job.fail)
    if job.refuse:
        raise ConfigError(job.refuse)
    dist.init_process_group("gloo")
    total = torch.tensor(rank)
    dist.all_reduce(total)
    record = {
        "rank": rank,
        "world_size": dist.get_world_size(),
        "say": job.say,
        "sum": int(total),
        "pid": os.getpid(),
    }
    write_status(output / f"rank-{rank}.json", record)
    for step in range(job.steps):
        if stopped:
            (output / f"saved-{rank}").touch()
            return 143
        if rank == 0:
            line = {"step": step, "time": time.time(), "metrics": {"train/loss": 1.0}}
            with (output / METRICS_FILE).open("a") as file:
                file.write(json.dumps(line) + "\n")
        time.sleep(0.05)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(run_job(Job, work, sys.argv[1:]))
