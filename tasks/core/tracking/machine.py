"""Load of this machine while it trains: processors, memory, disk, network, GPUs.

MLflow's own monitors measure; what they measure is a file (`machine.jsonl`) that goes the way of
the trainer's metrics, so that a server that is away costs nothing of it. GPUs are measured where
the package nvidia-ml-py is installed (`pip install steel-lm[energy]`).
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MACHINE_FILE = "machine.jsonl"
SECONDS = 15.0
"""Time between two measurements."""
PREFIX = "system/"
"""Section that MLflow's pages show over time."""

log = logging.getLogger("steel.tracking")


def monitors() -> list[Any]:
    """MLflow's monitors of what this machine has."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(Exception):  # no GPU, no driver, or no package for it
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        found.append(GPUMonitor())
    return found


def measure(of: list[Any]) -> dict[str, float]:
    """One measurement, by the names of metrics."""
    values: dict[str, float] = {}
    for monitor in of:
        monitor.collect_metrics()
        values |= {f"{PREFIX}{name}": float(v) for name, v in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


@contextlib.contextmanager
def measured(path: Path) -> Iterator[None]:
    """Add a line to a file every `SECONDS` while the block runs. What fails is logged once."""
    ended = threading.Event()
    thread = threading.Thread(target=_loop, args=(path, ended), daemon=True, name="machine-load")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SECONDS)


def _whole_lines(path: Path) -> int:
    """Cut away a line that a kill has left unfinished; returns the number of the others."""
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return whole.count(b"\n")


def _loop(path: Path, ended: threading.Event) -> None:
    try:
        step = _whole_lines(path)
        found = monitors()
        while not ended.wait(SECONDS):
            step += 1
            line = {"step": step, "time": time.time(), "metrics": measure(found)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    except Exception as error:
        log.warning("the load of this machine is not recorded: %s", error)
