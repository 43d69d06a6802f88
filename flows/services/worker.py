"""A worker whose end lets its runs save: the first process of a container, or of a batch job.

    SIGTERM ──▶ Prefect's worker: halted, takes no more runs
            └─▶ its runs: trainings save, stages keep what is finished; Cancelled
                └─▶ all have ended, or `STOP_SECONDS` have passed ──▶ the worker ends ──▶ exit

Runs are in sessions of their own, so that they outlive a worker. Where the first process of a
container ends, the kernel kills all others; so this one waits. It starts like `make up`: what was
killed before is repaired first. docs/adr/0081

    python -m flows.services.worker --store /store [-- arguments of `prefect worker start`]
"""

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from common.child import python
from common.processes import ancestors, still_runs
from common.redaction import install
from flows.environment import ROOT, prepare
from flows.runs.notes import notes_of_this_machine
from flows.services.keeper import repair_killed

POOL = "steel"
STOP_SECONDS = 100.0
"""Longest wait for runs to end; compose file and Kubernetes template grant more."""
LOOK_SECONDS = 0.5
log = logging.getLogger("steel.worker")


def own_runs(of: int | None = None) -> list[int]:
    """Processes of this machine's flow runs that are alive.

    of: a process; only runs that it has started, or a process that it has started, and so on.
    """
    runs = [int(note["pid"]) for _, note in notes_of_this_machine() if still_runs(note)]
    return [pid for pid in runs if of is None or of in ancestors(pid)]


def end_runs_first(worker: int, of: int | None = None) -> None:
    """Halt Prefect's worker, ask its runs (as `own_runs`) to stop, and wait until they have.

    Asked to end, Prefect's worker kills its runs before they have saved; until then it would begin
    others. Halted, it neither does: it ends on SIGTERM and SIGCONT.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGSTOP)
    _end_runs(of)


def _end_runs(of: int | None = None) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    asked: set[int] = set()
    while runs := own_runs(of):
        for pid in set(runs) - asked:
            log.info("a run is asked to save and stop (process %d)", pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            asked.add(pid)
        if time.monotonic() > deadline:
            log.error("%d runs did not end within %.0f s", len(runs), STOP_SECONDS)
            return
        time.sleep(LOOK_SECONDS)


class Worker:
    """`prefect worker start`, and the end of it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments
        self.stopping = False

    def run(self) -> int:
        """Work until SIGTERM or Ctrl-C, or the worker's own end; returns its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        command = python("prefect", "worker", "start", "--pool", POOL, *self.arguments)
        # A session of its own: Ctrl-C comes to this process alone, and then everything in order.
        worker = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        while worker.poll() is None and not self.stopping:
            time.sleep(LOOK_SECONDS)
        if not self.stopping:
            log.error("the worker ended by itself, with status %d", worker.returncode)
            _end_runs()
            return worker.returncode or 1
        end_runs_first(worker.pid)
        worker.terminate()
        worker.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(10)
        worker.kill()
        worker.wait()
        return 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder of all results")
    parser.add_argument("arguments", nargs="*", help="further arguments of `prefect worker start`")
    return parser.parse_args(words)


def main() -> int:
    """Entry of the command; returns the exit code."""
    install()
    prepare()
    arguments = arguments_of(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    repair_killed(arguments.store)
    return Worker(arguments.arguments).run()


if __name__ == "__main__":
    sys.exit(main())
