"""Several children at once, each with its share of the GPUs.

    jobs ──▶ slot 0 (GPUs 0-3) ──▶ child, next child, …
         └─▶ slot 1 (GPUs 4-7) ──▶ …

A child that fails is remembered and the others go on. Whatever ends this process lets all of them
save at the same time: SIGTERM to each, then the wait.
"""

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from common.child import Child, python
from common.devices import WhenBusy
from common.errors import ConfigError, SteelError, first_line
from common.paths import display
from common.processes import RunStopped
from model.entry.launch import GRACE_SECONDS
from model.train.distributed.gpus import num_gpus
from tasks.core.artifacts import Logger
from tasks.core.progress import ProgressReporter
from tasks.core.waiting.devices import Given, cores_for_children

POLL_SECONDS = 0.5
STOP_SECONDS = GRACE_SECONDS + 30.0
"""Time that a child has to let its own ranks save, and to end its records."""
LINE = re.compile(r"\S+ \S+ (?:INFO|WARNING|ERROR) (.*)")
"""A line of a child's log, without its time and level."""


def gpu_shares(parallel: int) -> list[dict[str, str]]:
    """Environment of each of `parallel` children: an equal number of neighbouring GPUs.

    GPUs that do not divide stay idle. Without a GPU the children share the CPU; each has the
    threads that it would have alone, so that rounding, and with it the result, is the same.

    Raises ConfigError for fewer GPUs than children.
    """
    if parallel < 1:
        raise ConfigError(f"parallel = {parallel}; give 1 or more")
    total = num_gpus()
    if not total:
        # Threads that wait would take the cores from those of the other children.
        return [{"OMP_WAIT_POLICY": "PASSIVE"} if parallel > 1 else {} for _ in range(parallel)]
    if total < parallel:
        raise ConfigError(
            f"parallel = {parallel}, but this machine has {total} GPU(s) for trainings: give at "
            f"most {total}"
        )
    if parallel == 1:
        return [{}]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    devices = visible.split(",")[:total] if visible else [str(number) for number in range(total)]
    each = total // parallel
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(devices[slot * each : (slot + 1) * each])}
        for slot in range(parallel)
    ]


def share_size(parallel: int) -> int:
    """GPUs of each child; 0 without any."""
    return num_gpus() // parallel


def run_all(
    module: str,
    jobs: Mapping[str, Path],
    environments: Sequence[Mapping[str, str]],
    log: Logger,
    title: str,
    when_busy: WhenBusy = "wait",
) -> dict[str, SteelError]:
    """Run `python -m module JOB.json` for every job, as many at once as there are environments.

    Args:
        module: the program.
        jobs: label -> job file, in the order in which they are begun.
        environments: additions to the environment, one for each slot.
        log: takes the lines of the children, with their labels.
        title: of the progress.
        when_busy: what to do while another training has the cores that several children are to
            share. Of GPUs each child takes its own.

    Returns the error of each job that failed.
    """
    waiting, failed = deque(jobs.items()), dict[str, SteelError]()
    reporter, done, told = ProgressReporter(title, log), 0, -1
    slots: list[_Running | None] = [None] * len(environments)
    together = len(environments) > 1 and not num_gpus()
    given = cores_for_children(title, log, when_busy) if together else nullcontext(Given())
    made = _told(lambda: f"{done} of {len(jobs)} models are made")
    with given as devices, _stopped_together(slots), made:
        while waiting or any(slots):
            for place, running in enumerate(slots):
                if running is None and waiting:
                    label, job = waiting.popleft()
                    slots[place] = _Running(
                        module, label, job, {**environments[place], **devices.env}, log, devices
                    )
                elif running is not None and running.ended():
                    slots[place], done = None, done + 1
                    if (error := running.failure()) is not None:
                        failed[running.label] = error
                        log.error(
                            "%s failed: %s (log %s). The others go on",
                            running.label,
                            first_line(error),
                            display(running.child.log),
                        )
            if done != told:
                told = done
                reporter.update(done, len(jobs), f"{done} of {len(jobs)} models")
            time.sleep(POLL_SECONDS)
    return failed


class _Running:
    """A child that runs, whose lines are passed on."""

    def __init__(
        self,
        module: str,
        label: str,
        job: Path,
        environment: Mapping[str, str],
        log: Logger,
        devices: Given,
    ) -> None:
        self.label, self.log = label, log
        where = environment.get("CUDA_VISIBLE_DEVICES")
        log.info("%s: begins%s", label, f" on GPUs {where}" if where else "")
        self.read = job.with_suffix(".log").stat().st_size if self._has_log(job) else 0
        self.child = Child(
            python(module, job),
            job,
            env={**os.environ, **environment},
            grace=STOP_SECONDS,
            **devices.options,
        )

    @staticmethod
    def _has_log(job: Path) -> bool:
        return job.with_suffix(".log").is_file()

    def ended(self) -> bool:
        code = self.child.poll()
        self._pass_on()
        return code is not None

    def failure(self) -> SteelError | None:
        """The error that ended it; None where it did its work."""
        self.child.stop()  # whatever is left of its group
        return None if self.child.poll() == 0 else self.child.failure(self.label)

    def _pass_on(self) -> None:
        with self.child.log.open("rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if found := LINE.fullmatch(line):
                self.log.info("[%s] %s", self.label, found[1])


@contextmanager
def _told(made: Callable[[], str]) -> Iterator[None]:
    """Say what is made when the run is stopped."""
    try:
        yield
    except RunStopped as stop:
        stop.kept.append(f"{made()}, those under way have saved")
        raise


@contextmanager
def _stopped_together(slots: Sequence["_Running | None"]) -> Iterator[None]:
    """Stop the children at the end, all at the same time."""
    try:
        yield
    finally:
        left = [running.child for running in slots if running is not None]
        for child in left:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
        for child in left:
            child.stop()
