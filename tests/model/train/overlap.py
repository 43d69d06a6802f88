"""Sessions of one run that overlap: real processes, stopped between two given system calls.

    rank:  check of the lease ──▶ SIGSTOP ──▶ (the run is taken up) ──▶ SIGCONT ──▶ write

Every write of a training is described by one line, and a `Pause` names one to stop before:

    own > checkpoints/step-00000008     a rename out of the session's folder (and into it: … > own)
    metrics 6   begin 2   end 2   health 9     a line about a step, a session, a batch
"""

import faulthandler
import fnmatch
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.entry import pretrain
from model.train.checkpoint.folders import complete_checkpoints
from model.train.run import lease, metrics
from model.train.run.folder import (
    CHECKPOINTS_FOLDER,
    HEALTH_FILE,
    JOB_FILE,
    JOURNAL_FILE,
    LEASE_FOLDER,
    METRICS_FILE,
    PROFILE_FOLDER,
    PROGRESS_FILE,
    SESSIONS_FILE,
)
from tests.model.train import ranks
from tests.processes import PATIENCE_SECONDS


@dataclass(frozen=True)
class Pause:
    """Stop a rank just before the write that matches, for the n-th time."""

    write: str
    """Pattern of its description (fnmatch)."""
    number: int = 1
    rank: int = 0


class Session:
    """The ranks of one session, started and left to themselves."""

    def __init__(
        self,
        job: Path,
        world_size: int,
        *,
        losses: Mapping[int, float] | None = None,
        pause: Pause | None = None,
    ) -> None:
        self.log = job.parent.with_suffix(".log")
        self.processes = ranks.start_ranks(_train, world_size, job, self.log, losses or {}, pause)

    def wait_until_stopped(self, rank: int) -> bool:
        """Return True when this rank is stopped, False when it has ended."""
        process, deadline = self.processes[rank], time.monotonic() + PATIENCE_SECONDS
        while process.is_alive() and not ranks.is_stopped(process):
            assert time.monotonic() < deadline, f"rank {rank} hangs\n{self.log.read_text()}"
            time.sleep(0.01)
        return process.is_alive()

    def signal(self, number: int, *others: int) -> None:
        """Send a signal to these ranks, or to all."""
        for rank in others or range(len(self.processes)):
            if (pid := self.processes[rank].pid) and self.processes[rank].is_alive():
                os.kill(pid, number)

    def wait(self) -> list[int]:
        """Wait for the end; exit codes, negative for signals."""
        for process in self.processes:
            process.join(PATIENCE_SECONDS)
            if process.is_alive():
                self.signal(signal.SIGUSR1)  # stack traces into the log
                time.sleep(1)
                raise AssertionError(f"a rank hangs\n{self.log.read_text()}")
        return [process.exitcode or 0 for process in self.processes]

    def kill_who_waits_for_a_partner(self) -> None:
        """End the ranks that have not begun: they wait for one that is gone, for an hour."""
        for process in self.processes:
            if not (self.log.parent / f"began-{process.pid}").exists():
                process.kill()

    def kill(self) -> None:
        """End what is left."""
        for process in self.processes:
            process.kill()
            process.join()


def _train(job: Path, log: Path, losses: Mapping[int, float], pause: Pause | None) -> None:
    sys.stderr = log.open("a")
    os.dup2(sys.stderr.fileno(), 2)
    faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)
    ranks.scale_losses(losses)
    share = lease.Lease.share

    def noted(run: Path, of: lease.Ranks) -> lease.Lease:
        shared = share(run, of)
        (log.parent / f"began-{os.getpid()}").touch()
        return shared

    lease.Lease.share = noted  # type: ignore[method-assign]
    if pause is not None and pause.rank == int(os.environ["RANK"]):
        _arm(pause, job.parent)
    sys.exit(pretrain.main([str(job)]))


def _arm(pause: Pause, run: Path) -> None:
    left = pause.number

    def reach(write: str) -> None:
        nonlocal left
        if fnmatch.fnmatch(write, pause.write):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    def name(path: Path) -> str:
        relative = path.relative_to(run)
        within = relative.parts[0] == LEASE_FOLDER and len(relative.parts) > 2
        return "own" if within else str(relative)

    rename, write = lease._rename, metrics._write

    def paused_rename(path: Path, target: Path) -> None:
        reach(f"{name(path)} > {name(target)}")
        rename(path, target)

    def paused_write(descriptor: int, data: bytes) -> None:
        reach(_describe(json.loads(data)))
        write(descriptor, data)

    lease._rename, metrics._write = paused_rename, paused_write


def _describe(line: dict[str, Any]) -> str:
    if "metrics" in line:
        return f"metrics {line['step']}"
    return f"{line['event']} {line['session']}" if "event" in line else f"health {line['batch']}"


def history(run: Path) -> dict[str, Any]:
    """All that a run leaves, without times, speeds, and what tells of its sessions.

    Lines in their order, so that one too many, one too few or one in another place shows.
    """
    lines = [
        (line["step"], values)
        for line in metrics.read_metrics(run / METRICS_FILE)
        if (values := {k: v for k, v in line["metrics"].items() if not k.startswith("perf/")})
    ]
    events = [{**e, "time": 0} for e in metrics.read_metrics(run / HEALTH_FILE)]
    files: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if name.startswith(PROFILE_FOLDER):  # what a kill interrupts is not traced again
            continue
        if path.is_dir():
            if not name.startswith(LEASE_FOLDER):
                files[name] = "folder"
        elif path.name == PROGRESS_FILE:
            files[name] = {**json.loads(path.read_text()), "callbacks": None}
        elif path.name in ("complete.json", "config.json", JOURNAL_FILE, JOB_FILE):
            files[name] = "differs in checksums, folders and names of requests"
        elif path.name in (METRICS_FILE, HEALTH_FILE, SESSIONS_FILE):
            files[name] = "see above"
        elif not name.startswith(f"{LEASE_FOLDER}/") or "-" in name:
            files[name] = path.read_bytes()
    journal = run / JOURNAL_FILE
    entries = json.loads(journal.read_text())["entries"] if journal.exists() else []
    return {"metrics": lines, "health": events, "files": files, "journal": entries}


def assert_same_history(run: Path, reference: Path) -> None:
    """Compare part by part, for messages that can be read."""
    found, expected = history(run), history(reference)
    assert [step for step, _ in found["metrics"]] == [step for step, _ in expected["metrics"]]
    assert found["metrics"] == expected["metrics"]
    assert found["health"] == expected["health"]
    assert found["journal"] == expected["journal"]
    assert sorted(found["files"].keys() ^ expected["files"].keys()) == []
    different = [n for n, content in found["files"].items() if content != expected["files"][n]]
    assert different == []
    assert complete_checkpoints(run / CHECKPOINTS_FOLDER)
