"""One way to start a child process: a JSON job in, progress and a typed error out.

    parent                                           child
    Child(command, JOB.json) ─────────────────────▶  run_job(PretrainJob, pretrain, argv)
      progress()  ◀────────────── JOB.progress  ◀──    ProgressFile(job file)
      failure()   ◀────────────── JOB.error     ◀──    a SteelError that ended it
                                  JOB.log       ◀──    everything that it prints
      stop()      ── SIGTERM, after `grace` seconds SIGKILL to its group ──▶

Files and no pipes: a pipe breaks when the parent dies, and a child that prints into a broken pipe
ends before it can save. A child that is to die with its parent asks the kernel for it
(common.processes.die_with_parent). docs/adr/0019
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from common.config import from_json
from common.disk import FULL_BELOW, disk_full_error, told_when_full
from common.errors import ConfigError, DataError, StageError, SteelError
from common.files import write_status
from common.paths import ROOT, display
from common.processes import PARENT
from common.redaction import install

T = TypeVar("T")
Report = Callable[[int, int, str], None]
"""Called with (done, total, what) as work goes on."""

BAD_INPUT = 2
"""Exit code of a child that refuses its input with a ConfigError or a DataError."""
TAIL_LINES = 40
"""Lines of the log in the error of a child that left no error of its own."""

log = logging.getLogger("steel.child")


def python(module: str, *arguments: object) -> list[str]:
    """Command that runs a module of this installation."""
    return [sys.executable, "-m", module, *map(str, arguments)]


class Progress(NamedTuple):
    """Position of a child in its work."""

    done: int
    total: int
    what: str


class Child:
    """A child process in a session of its own; as a context manager it is stopped at the end.

    Args:
        command: what to run, from the project's root.
        job: its job file, already written; log, progress and error stand beside it. None: it has
            none of these, and prints where this process does.
        env: its environment; default: this process's.
        grace: seconds between SIGTERM and SIGKILL when it is stopped; 0: SIGKILL at once.
        options: further ones of subprocess.Popen.
    """

    def __init__(
        self,
        command: Sequence[str],
        job: Path | None,
        *,
        env: Mapping[str, str] | None = None,
        grace: float = 10.0,
        **options: Any,
    ) -> None:
        self.job, self.grace = job, grace
        options = {
            "cwd": ROOT,
            "stdin": subprocess.DEVNULL,
            "env": {**(os.environ if env is None else env), PARENT: str(os.getpid())},
            "start_new_session": True,
            **options,
        }
        if job is None:
            self.process = subprocess.Popen(list(command), **options)
            return
        for suffix in (".progress", ".error"):
            job.with_suffix(suffix).unlink(missing_ok=True)
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            options = {"stdout": output, "stderr": output, **options}
            self.process = subprocess.Popen(list(command), **options)

    @property
    def log(self) -> Path:
        """File that receives what it prints."""
        assert self.job is not None
        return self.job.with_suffix(".log")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Let it save and end; kill it, and whatever is left of its group, after the grace."""
        try:
            if self.poll() is None and self.grace:
                self.process.terminate()
                try:
                    self.process.wait(self.grace)
                except subprocess.TimeoutExpired:
                    log.warning("a child did not end within %.0f s of SIGTERM", self.grace)
        finally:  # also when a second Ctrl-C ends the wait
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def progress(self) -> Progress | None:
        """Position it reported last; None before the first report."""
        assert self.job is not None
        try:
            return Progress(*json.loads(self.job.with_suffix(".progress").read_text("utf-8")))
        except FileNotFoundError:
            return None

    def tail(self) -> str:
        """Last lines of what it has printed."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-TAIL_LINES:])

    def failure(self, what: str) -> SteelError:
        """Error that ended it: the SteelError it raised, of the same class and message, or a
        StageError with the end of its log.

        what: subject of the latter, as in "cleaning the text sources".
        """
        assert self.job is not None
        try:
            left = json.loads(self.job.with_suffix(".error").read_text("utf-8"))
        except FileNotFoundError:
            if shutil.disk_usage(self.job.parent).free < FULL_BELOW:
                return disk_full_error(what)  # so full that the child could not even say so
            return StageError(
                f"{what} ended with status {self.process.returncode} (log {display(self.log)}):\n"
                f"{self.tail()}"
            )
        known = {kind.__name__: kind for kind in _with_subclasses(SteelError)}
        return next(known[name] for name in left["types"] if name in known)(left["message"])


def _with_subclasses(kind: type[SteelError]) -> Iterator[type[SteelError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)


# ── the child's side ─────────────────────────────────────────────────────────────────────────────


def run_job(job_class: type[T], work: Callable[[T], int | None], argv: Sequence[str]) -> int:
    """Run the job in the file `argv[0]`: the main function of a child.

    Returns the exit code: what `work` returns, or 0; 2 for bad input (ConfigError, DataError); 1
    for another SteelError. Any other error keeps its traceback.
    """
    install()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.captureWarnings(True)
    if len(argv) != 1:
        log.error("expected one argument, the JSON file of a %s", job_class.__name__)
        return BAD_INPUT
    path = Path(argv[0])
    try:
        with told_when_full(path.stem):
            return work(from_json(job_class, path)) or 0
    except SteelError as error:
        log.error("%s", error)
        _leave(error, path)
        return BAD_INPUT if isinstance(error, ConfigError | DataError) else 1


def _leave(error: SteelError, job: Path) -> None:
    """Write an error for the parent; several ranks of one job may do so at once."""
    names = [kind.__name__ for kind in type(error).__mro__]
    with contextlib.suppress(OSError):  # on a full disk: the log has it, or the parent looks
        write_status(job.with_suffix(".error"), {"types": names, "message": str(error)})


class ProgressFile:
    """Reports progress to the parent: call it as often as you like, it writes twice a second."""

    INTERVAL_SECONDS = 0.5

    def __init__(self, job: Path) -> None:
        self.path, self.last = job.with_suffix(".progress"), 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report `done` of `total`; the beginning and the end are always written."""
        now = time.monotonic()
        if now - self.last < self.INTERVAL_SECONDS and 0 < done < total:
            return
        self.last = now
        write_status(self.path, [done, total, what])
