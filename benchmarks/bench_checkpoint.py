"""Time that a checkpoint holds training up, and that it takes to be durable.

python -m benchmarks.bench_checkpoint [--gib 12.5] [--folder DIR] [--json out.json]

The state is that of a model with fp32 weights and AdamW's two moments, on the GPU where there is
one; 12.5 GiB are the 1.12 billion parameters of Table 1. All writers fsync what they write.

    stall     how long the training loop waits      limit: copy from the device to the host
    durable   until the state would survive a crash limit: raw write and fsync of as many bytes

Needs torch, Transformers, model/ and benchmarks/ alone. Matrix products stand for training; they
also tell how much the background takes from it.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from benchmarks._figures import add_options, publish
from common.files import sync
from model.train.checkpoint.retention import CheckpointInfo, CheckpointSettings
from model.train.checkpoint.writer import Checkpoints
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.device import device_name
from model.train.run.lease import Lease

TARGET = 0.01
"""Of the time between checkpoints, at most, training may wait for them."""
ROW = 1792
"""Width of the matrices, Table 1's."""
WRITE_BYTES = 1 << 26
"""Bytes of one call of the raw write."""


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code: 1 when the stall misses its target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gib", type=float, default=12.5, help="size of the state")
    parser.add_argument("--interval-minutes", type=float, default=10.0, help="between checkpoints")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where to write; a temporary folder by default")
    add_options(parser)
    arguments = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        distributed_context() as ranks,
    ):
        report = measure(Path(folder), ranks, arguments.gib, arguments.repeats)
    interval = 60 * arguments.interval_minutes
    share = report["seconds"]["async: stall"] / interval
    report |= {
        "stall_share_of_interval": share,
        "interval_seconds": interval,
        "device": device_name(ranks.device),
    }
    verdict = (
        f"stall: {share:.3%} of {arguments.interval_minutes:g} minutes "
        f"({'meets' if share < TARGET else 'misses'} {TARGET:.0%})"
    )
    text = f"{table(report)}\n{verdict}"
    publish(report, "bench_checkpoint", argv, arguments.json, table=text)
    return 0 if share < TARGET else 1


def make_state(num_bytes: float, device: torch.device) -> dict[str, Tensor]:
    """Weights and two moments of square matrices, fp32, about `num_bytes` in all."""
    number = max(1, round(num_bytes / (3 * 4 * ROW * ROW)))
    kinds = ("model.{}", "optimizer.{}.exp_avg", "optimizer.{}.exp_avg_sq")
    return {
        kind.format(i): torch.rand(ROW, ROW, device=device) for i in range(number) for kind in kinds
    }


def measure(folder: Path, ranks: DistributedContext, gib: float, repeats: int) -> dict[str, Any]:
    """Median seconds of everything, all in this process, one after the other."""
    state = make_state(gib * 2**30, ranks.device)
    size = sum(tensor.nbytes for tensor in state.values())
    settings = CheckpointSettings(interval=1, keep_last=1, keep_best=0, export=False)
    checkpoints = Checkpoints(folder / "ours", ranks, Lease.share(folder, ranks), settings)
    work = Work(ranks.device)
    alone = work.rate(2.0)
    stalls, durable, beside = [], [], []
    for number in range(repeats + 1):  # the first makes the host buffers
        entry = CheckpointInfo(step=number + 1, regular=True, validation_loss=None)
        started = time.perf_counter()
        stalls.append(checkpoints.save(entry, state, {}, wait=False))
        beside.append(work.rate_while_saving())
        checkpoints.wait()
        durable.append(time.perf_counter() - started)
    shutil.rmtree(folder / "ours")

    def timed(name: str, save: Callable[[Path], None]) -> float:
        seconds = []
        for number in range(repeats):
            path = folder / f"{name}-{number}"
            _finish(ranks)
            started = time.perf_counter()
            save(path)
            seconds.append(time.perf_counter() - started)
            shutil.rmtree(path)
        return statistics.median(seconds)

    host = {name: tensor.cpu() for name, tensor in state.items()}
    return {
        "gib": size / 2**30,
        "seconds": {
            "async: first stall": stalls[0],
            "async: stall": statistics.median(stalls[1:]),
            "limit: copy to the host": _copy_seconds(state, ranks, repeats),
            "async: durable": statistics.median(durable[1:]),
            "dcp.save, fsync": timed("dcp", lambda path: _dcp(path, state, ranks)),
            "torch.save, fsync": timed("torch", lambda path: _torch(path, state)),
            "limit: raw write, fsync": timed("raw", lambda path: _raw(path, host)),
        },
        "training_speed_beside_a_save": statistics.median(beside[1:]) / alone,
    }


def is_saving() -> bool:
    """Return True while a thread writes a checkpoint in the background."""
    return any(thread.name.startswith("save-") for thread in threading.enumerate())


class Work:
    """Matrix products, as training would keep the device busy."""

    def __init__(self, device: torch.device) -> None:
        side = 4096 if device.type == "cuda" else 256
        self.device = device
        self.factor = torch.rand(side, side, device=device)

    def once(self) -> None:
        """One product, finished."""
        product = self.factor @ self.factor
        product[0, 0].item()

    def rate(self, seconds: float) -> float:
        """Products a second when nothing else goes on."""
        started, number = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            self.once()
            number += 1
        return number / (time.perf_counter() - started)

    def rate_while_saving(self) -> float:
        """Products a second until the save is done."""
        started, number = time.perf_counter(), 0
        while is_saving() or not number:
            self.once()
            number += 1
        return number / (time.perf_counter() - started)


def table(report: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{report['gib']:.2f} GiB on {report['device']}"]
    lines += [
        f"{name:26} {seconds:8.3f} s  {report['gib'] * 2**30 / 1e9 / seconds:7.2f} GB/s"
        for name, seconds in report["seconds"].items()
    ]
    speed = report["training_speed_beside_a_save"]
    return "\n".join([*lines, f"training runs at {speed:.0%} of its speed during a save"])


def _copy_seconds(state: dict[str, Tensor], ranks: DistributedContext, repeats: int) -> float:
    """One copy of as many bytes as the state has, into host memory that exists already."""
    pinned = ranks.device.type == "cuda"
    buffers = [torch.zeros(t.shape, dtype=t.dtype, pin_memory=pinned) for t in state.values()]
    seconds = []
    for _ in range(repeats):
        _finish(ranks)
        started = time.perf_counter()
        for buffer, tensor in zip(buffers, state.values(), strict=True):
            buffer.copy_(tensor, non_blocking=True)
        _finish(ranks)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _dcp(path: Path, state: dict[str, Tensor], ranks: DistributedContext) -> None:
    dcp_save(
        dict(state),
        storage_writer=FileSystemWriter(path, sync_files=True),
        process_group=ranks.control,
    )


def _torch(path: Path, state: dict[str, Tensor]) -> None:
    path.mkdir()
    torch.save(state, path / "state.pt")
    sync(path / "state.pt")


def _raw(path: Path, host: dict[str, Tensor]) -> None:
    path.mkdir()
    with (path / "state.bin").open("wb", buffering=0) as file:
        for tensor in host.values():
            content = tensor.numpy().reshape(-1).view("uint8").data
            for first in range(0, len(content), WRITE_BYTES):
                file.write(content[first : first + WRITE_BYTES])
        os.fsync(file.fileno())


def _finish(ranks: DistributedContext) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
