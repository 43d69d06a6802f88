"""A small entry for the tests of the launcher: joins a process group, counts, saves on SIGTERM."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from model.train.run.folder import METRICS_FILE


def main(argv: list[str]) -> int:
    config = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    output, rank = Path(config["output"]), int(os.environ["RANK"])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    if "fail" in config:
        raise RuntimeError(config["fail"])
    dist.init_process_group("gloo")
    total = torch.tensor(rank)
    dist.all_reduce(total)
    record = {
        "rank": rank,
        "world_size": dist.get_world_size(),
        "say": config.get("say"),
        "sum": int(total),
        "pid": os.getpid(),
    }
    aside = output / f".rank-{rank}"
    aside.write_text(json.dumps(record))
    aside.replace(output / f"rank-{rank}.json")
    for step in range(config["steps"]):
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
    sys.exit(main(sys.argv[1:]))
