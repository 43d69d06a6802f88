"""Start an entry of `model/entry` under torchrun, follow it, and stop it well.

    stage ───job.json────▶ launcher ──▶ torchrun ──▶ rank 0 … rank n-1
      ▲                                                  │
      └── progress, MLflow ◀── metrics.jsonl, log ◀──────┘

Whatever ends this task (an error, a cancelled flow, Ctrl-C) lets the ranks save (SIGTERM) and kills
the launcher's group only after `GRACE_SECONDS` (common/child.py). Death of this process reaches the
launcher through the kernel (model/entry/launch.py).
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.child import Child
from common.files import write_json
from common.paths import display
from model.entry.join import LaunchSpec
from model.entry.launch import GRACE_SECONDS, Nodes, environment
from model.train.checkpoint.folders import complete_checkpoints, read_marker
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import newest_lines
from tasks.core.stage import StageRun
from tasks.core.waiting.devices import devices_for

POLL_SECONDS = 0.5


def torchrun(
    run: StageRun,
    module: str,
    job: Any,
    *,
    num_processes: int,
    total_steps: int | Callable[[], int] | None = None,
    env: Mapping[str, str] | None = None,
    nodes: Nodes | None = None,
    checkpoints: Path | None = None,
) -> None:
    """Run `python -m module JOB.json` in `num_processes` ranks on this machine until it ends.

    It has as many GPUs as ranks (without any: all cores) to itself, and waits until they are free.

    Args:
        run: the stage; job and log are written to its folder, and `metrics.jsonl` there is
            followed into its progress and into MLflow.
        module: dotted name of the entry.
        job: a dataclass of plain values, without secrets, as the entry reads it.
        num_processes: ranks.
        total_steps: what 100 % is, or a function that looks it up where it may change; None when
            the entry reports no steps.
        env: additions to the environment.
        nodes: the machines of the run, when there are several: the others wait at the store
            (model/entry/join.py) and have as many ranks each.
        checkpoints: folder in which a training saves its checkpoints.

    Raises:
        SteelError: what ended the entry; a StageError with the last lines of its log where it
            raised none.
    """
    name = module.rpartition(".")[2]
    path = run.folder / f"{name}.json"
    write_json(path, dataclasses.asdict(job))
    metrics = run.folder / METRICS_FILE
    if checkpoints is not None:
        run.saved = lambda: _saved(checkpoints)
    spec = LaunchSpec.make(nodes or Nodes(), num_processes, module, [str(path)])
    run.log.info(
        "%s: %d process(es) of %s, log %s",
        run.stage,
        num_processes,
        module,
        display(path.with_suffix(".log")),
    )
    with (
        devices_for(run, num_processes) as given,
        run.track.follow(metrics),
        spec.published(run.folder.parents[1]),
        Child(
            spec.command(),
            path,
            env={**environment(num_processes), **(env or {}), **given.env},
            grace=GRACE_SECONDS,
            **given.options,
        ) as child,
    ):
        follower = _StepProgress(run, metrics, total_steps)
        while child.poll() is None:
            follower.poll()
            time.sleep(POLL_SECONDS)
        follower.poll()
    if child.poll() != 0:
        raise child.failure(f"{run.stage}: {module}")


def _saved(checkpoints: Path) -> str:
    newest = complete_checkpoints(checkpoints)[-1:]
    return f"saved step {read_marker(newest[0])['step']}" if newest else "has nothing to save yet"


class _StepProgress:
    """Reads a growing metrics.jsonl and passes the newest step on as progress."""

    def __init__(self, run: StageRun, metrics: Path, total: int | Callable[[], int] | None) -> None:
        self.run, self.metrics, self.total = run, metrics, total
        self.size = 0

    def poll(self) -> None:
        if self.total is None or not self.metrics.exists():
            return
        size = self.metrics.stat().st_size
        if size == self.size:
            return
        self.size, records = size, newest_lines(self.metrics)
        if not records:
            return
        losses = [(r["step"], r["metrics"]) for r in records if "train/loss" in r["metrics"]]
        total = self.total() if callable(self.total) else self.total
        step = records[-1]["step"]
        what = f"step {step}/{total}"
        if losses:
            logged, metrics = losses[-1]
            what += f", loss {metrics['train/loss']:.3f}"
            what += f" in step {logged}" if logged != step else ""  # a validation is of a later one
        self.run.progress(step, total, what)
