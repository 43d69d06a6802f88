"""Start an entry of `model/entry` under torchrun, follow it, and stop it well.

    stage ──config.json──▶ launcher ──▶ torchrun ──▶ rank 0 … rank n-1
      ▲                                                  │
      └── progress, MLflow ◀── metrics.jsonl, log ◀──────┘

The child writes to a log file, not to a pipe: a pipe breaks when this process dies, and ranks that
print into a broken pipe are killed before they can save. Whatever ends this task (an error, a
cancelled flow, Ctrl-C) first asks the child to save (SIGTERM), and kills its group only after
`GRACE_SECONDS`. Death of this process reaches the child through the kernel (model/entry/launch.py).
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import StageError
from common.files import write_json
from common.paths import ROOT
from model.entry.join import Call
from model.entry.launch import SHUTDOWN_SECONDS, Nodes, environment
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import newest_lines
from tasks.core.stage import StageRun

GRACE_SECONDS = SHUTDOWN_SECONDS + 5.0
"""After SIGTERM: what torchrun gives its ranks, and a little for itself. Prefect's worker kills the
flow 30 s after it cancelled it."""
POLL_SECONDS = 0.5
TAIL_LINES = 40
USER_ERROR = 2
"""Exit code of an entry that refuses its input (a SteelError): the message is the last line."""


def torchrun(
    run: StageRun,
    module: str,
    payload: Mapping[str, Any],
    *,
    num_processes: int,
    total_steps: int | Callable[[], int] | None = None,
    env: Mapping[str, str] | None = None,
    nodes: Nodes | None = None,
) -> None:
    """Run `python -m module CONFIG.json` in `num_processes` ranks on this machine until it ends.

    Args:
        run: the stage; payload and log are written to its folder, and `metrics.jsonl` there is
            followed into its progress and into MLflow.
        module: dotted name of the entry.
        payload: the resolved config, JSON values, without secrets.
        num_processes: ranks.
        total_steps: what 100 % is, or a function that looks it up where it may change; None when
            the entry reports no steps.
        env: additions to the environment.
        nodes: the machines of the run, when there are several: the others wait at the store
            (model/entry/join.py) and have as many ranks each.

    Raises:
        StageError: the entry failed; the message ends with the last lines of its log.
    """
    name = module.rpartition(".")[2]
    config = run.folder / f"{name}.json"
    write_json(config, dict(payload))
    metrics = run.folder / METRICS_FILE
    log_path = run.folder / f"{name}.log"
    call = Call.make(nodes or Nodes(), num_processes, module, [str(config)])
    run.log.info("%s: %d process(es) of %s", run.stage, num_processes, module)
    with (
        log_path.open("ab") as log,
        run.track.follow(metrics),
        call.standing(run.folder.parents[1]),
    ):
        child = subprocess.Popen(
            call.command(),
            cwd=ROOT,
            env={**environment(num_processes), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        follower = _Follower(run, metrics, total_steps)
        try:
            while child.poll() is None:
                follower.poll()
                time.sleep(POLL_SECONDS)
            follower.poll()
        except BaseException:
            stop(child)
            raise
        finally:
            # A launcher that was killed leaves ranks behind; nothing of its group may survive.
            _kill_group(child.pid)
    if child.returncode != 0:
        tail = "\n".join(_tail(log_path))
        raise StageError(
            f"{run.stage}: {module} ended with exit code {child.returncode}. "
            f"The last lines of {log_path}:\n{tail}"
        )


def stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask a child to save and end; kill it and its group when it takes too long."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(child.pid)
            child.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-TAIL_LINES:]


class _Follower:
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
        losses = [r["metrics"]["train/loss"] for r in records if "train/loss" in r["metrics"]]
        total = self.total() if callable(self.total) else self.total
        what = f"step {records[-1]['step']}/{total}"
        if losses:
            what += f", loss {losses[-1]:.3f}"
        self.run.progress(records[-1]["step"], total, what)
