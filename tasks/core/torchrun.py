"""Start an entry of `model/entry` under torchrun, follow it, and stop it well.

    stage ───job.json────▶ launcher ──▶ torchrun ──▶ rank 0 … rank n-1
      ▲                                                  │
      └── progress, MLflow ◀── metrics.jsonl, log ◀──────┘

Whatever ends this task (an error, a cancelled flow, Ctrl-C) lets the ranks save (SIGTERM) and kills
the launcher's group only after `GRACE_SECONDS` (common/child.py). Death of this process reaches the
launcher through the kernel (model/entry/launch.py).
"""

import dataclasses
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.child import Child
from common.errors import StageError
from common.files import write_json
from common.paths import display
from model.entry.join import LaunchSpec
from model.entry.launch import GRACE_SECONDS, Nodes, environment
from model.train.checkpoint.folders import complete_checkpoints, read_marker
from model.train.run.folder import METRICS_FILE, SESSIONS_FILE
from model.train.run.metrics import newest_lines
from model.train.run.sessions import resolved
from tasks.core.progress.child_log import ChildLog
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
        lines = ChildLog(path.with_suffix(".log"), run.log, run.stage)
        try:
            while child.poll() is None:
                began = follower.size > 0
                follower.poll()
                if follower.size and not began:  # it knows its steps and its precision by now
                    run.settle(**resolved(run.folder / SESSIONS_FILE))
                lines.poll()
                time.sleep(POLL_SECONDS)
            follower.poll()
        finally:
            lines.close()
    run.settle(**resolved(run.folder / SESSIONS_FILE))
    if child.poll() != 0:
        raise _killed(run, child) or child.failure(f"{run.stage}: {module}")


ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: -(\d+)", re.DOTALL)
"""Part of what torchrun prints when a rank was ended by a signal."""


def _killed(run: StageRun, child: Child) -> StageError | None:
    """Error of a launch that a signal has ended; None for one that ended in another way."""
    code = child.poll() or 0
    if (cause := ROOT_CAUSE.search(child.tail())) is not None:
        who, number = f"rank {cause[1]}", int(cause[2])
    elif code < 0:
        who, number = "the process that started the ranks", -code
    else:
        return None
    name = signal.Signals(number).name
    because = ", most likely because memory ran out" if number == signal.SIGKILL else ""
    saved = f" {run.saved().capitalize()}." if run.saved is not None else ""
    return StageError(
        f"{run.stage}: {who} was ended by {name}{because}.{saved} Start it again, and it goes on "
        f"(log {display(child.log)})"
    )


def _saved(checkpoints: Path) -> str:
    newest = complete_checkpoints(checkpoints)[-1:]
    return f"saved step {read_marker(newest[0])['step']}" if newest else "has nothing to save yet"


def shares(tokens: Mapping[str, float]) -> dict[str, str]:
    """Share of each source in what is trained on, largest first, as in {"skypile": "22.1 %"}."""
    total = sum(tokens.values()) or 1
    ordered = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))
    return {name: f"{100 * number / total:.1f} %" for name, number in ordered if number}


class _StepProgress:
    """Reads a growing metrics.jsonl and passes the newest step on as progress."""

    def __init__(self, run: StageRun, metrics: Path, total: int | Callable[[], int] | None) -> None:
        self.run, self.metrics, self.total = run, metrics, total
        self.began = time.time()
        self.size = 0

    def poll(self) -> None:
        if self.total is None or not self.metrics.exists():
            return
        size = self.metrics.stat().st_size
        if size == self.size:
            return
        self.size = size
        # Those of an earlier session say nothing of this one's speed.
        records = [r for r in newest_lines(self.metrics) if r["time"] >= self.began]
        if not records:
            return
        total = self.total() if callable(self.total) else self.total
        step = records[-1]["step"]
        measured = [(r["step"], r["metrics"]) for r in records if "train/loss" in r["metrics"]]
        if not measured:
            self.run.progress(step, total, f"step {step}/{total}")
            return
        logged, metrics = measured[-1]
        what = [f"step {step}/{total}", f"loss {metrics['train/loss']:.3f}"]
        what[-1] += f" in step {logged}" if logged != step else ""  # a validation is of a later one
        if speed := metrics.get("perf/tokens_per_second"):
            what.append(f"{speed:,.0f} tokens/s")
        if "perf/mfu" in metrics:
            what.append(f"MFU {100 * metrics['perf/mfu']:.1f} %")
        elif "perf/mfu_measured_peak" in metrics:  # of a device without a datasheet's figure
            what.append(f"MFU {100 * metrics['perf/mfu_measured_peak']:.0f} % of measured peak")
        # As the trainer says, from the steps of this session alone.
        left = metrics.get("perf/seconds_left") if logged == step else None
        self.run.progress(step, total, ", ".join(what), left)
