"""End of ranks that hang: when nothing moves for too long, every rank ends and says why.

    trainer ──on_phase(phase)──▶  watchdog thread of this rank ──▶ <run>/ranks/rank-00003.json
                                        │ no beat within the timeout
                                        ▼
       stack traces, who is where (the other ranks' files, the state of their processes), exit 3

A rank that is stopped or stuck makes the others wait in a collective; their own watchdogs end them,
and torchrun ends the rest. A rank that dies breaks the others' collectives over gloo: `explain`
turns their error into the same sentence. NCCL's hang then: the lifeline tells `lost`
(model/train/distributed/lifeline.py), and the rank ends alike. Should this process not even run its
Python threads (a lock held in native code), faulthandler's own thread, which needs no lock, writes
the stacks and ends it.
"""

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common.errors import first_line
from model.train.callbacks.callback import Callback
from model.train.run.folder import RANKS_FOLDER
from model.train.run.lease import Lease

if TYPE_CHECKING:
    from model.train.distributed.step_outcome import StepOutcome
    from model.train.trainer import Trainer

log = logging.getLogger(__name__)

EXIT_HANGING = 3
"""Exit code when no progress was made for too long, or another rank is gone."""
NOTICE_SECONDS = 5.0
"""Seconds for the training thread to notice by itself that another rank is gone. Much less than
torchrun's time between SIGTERM and SIGKILL."""
PROCESS_STATES = {
    "T": "is stopped (SIGSTOP)",
    "t": "is held by a debugger",
    "Z": "is dead",
    "X": "is dead",
}
"""Of Linux's process states those in which no training goes on."""


class Watchdog(Callback):
    """Watches this rank's training thread, and publishes where it is. Every rank has this callback.

    Args:
        run: the folder that the run writes to, which all ranks see.
        rank: this rank.
        first_timeout: seconds without a beat that are allowed until the first step is done.
        timeout: the same from then on.
        margin: seconds after which faulthandler acts, should this class's thread not run.
    """

    def __init__(
        self, run: Path, rank: int, *, first_timeout: float, timeout: float, margin: float = 60.0
    ) -> None:
        self.folder = run / RANKS_FOLDER
        self.rank = rank
        self.timeout = timeout
        self.margin = margin
        self._allowed = first_timeout
        self._phase, self._step = "start", 0
        self._beat = time.monotonic()
        self._lease: Lease | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def start(self) -> "Watchdog":
        """Begin to watch."""
        self._thread.start()
        return self

    def follow(self, lease: Lease) -> None:
        """From now on publish where this rank is; and end it when a later session takes the run up.

        Before that it writes nothing: it does not know yet whether the run is still its own.
        """
        self._lease = lease
        self._publish()

    def on_phase(self, trainer: "Trainer", phase: str) -> None:
        self.beat(phase, trainer.progress.step)

    def on_step_end(self, trainer: "Trainer", outcome: "StepOutcome") -> None:
        self._allowed = self.timeout  # what compiles has compiled

    def on_train_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        if error is None:  # what follows takes as long as it takes
            self.end()

    def beat(self, phase: str, step: int) -> None:
        """Note that the training thread got as far as this phase, with so many completed steps.

        Costs an assignment.
        """
        self._phase, self._step = phase, step
        self._beat = time.monotonic()

    def end(self) -> None:
        """Stop watching."""
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            if self._lease is not None:
                self._lease.remove(self._path(self.rank))

    def explain(self, error: BaseException, gone: int | None = None) -> str:
        """One sentence for an error of a collective: who is gone, and where this rank was.

        gone: a rank of which that is known.
        """
        return (
            f"rank {self.rank} lost another rank in phase '{self._phase}', after step "
            f"{self._step}. {self._others(gone)} The training resumes from its newest checkpoint "
            f"when started again. ({first_line(error)})"
        )

    def lost(self, rank: int, left: threading.Event) -> None:
        """End this rank because another one is gone, unless its training thread does so by itself.

        left: set when that thread has noticed. Called by a thread of the lifeline.
        """
        if left.wait(NOTICE_SECONDS):
            return
        self._publish()  # a session that was replaced ends here, for that reason
        log.error("%s", self.explain(RuntimeError("its connection broke"), gone=rank))
        _exit_hanging()

    def _watch(self) -> None:
        interval = min(self.timeout, self._allowed) / 4
        pause = min(interval, 5.0)
        while not self._ended.wait(pause):
            silent = time.monotonic() - self._beat
            # Rearmed while Python's threads run; it acts where they do not.
            faulthandler.dump_traceback_later(
                self._allowed + self.margin, exit=True, file=sys.stderr
            )
            self._publish()
            if silent > self._allowed:
                self._give_up(silent)

    def _give_up(self, silent: float) -> None:
        log.error(
            "rank %d made no progress for %.0f s (allowed: %.0f) in phase '%s', after step %d. %s "
            "All ranks end; the training resumes from its newest checkpoint when started again. "
            "Stack traces follow.",
            self.rank,
            silent,
            self._allowed,
            self._phase,
            self._step,
            self._others(),
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        _exit_hanging()

    def _others(self, gone: int | None = None) -> str:
        """Say where the other ranks are, the suspicious ones only if there are any."""
        sentences, suspects = [], []
        for path in sorted(self.folder.glob("rank-*.json")):
            try:
                seen = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if seen["rank"] == self.rank:
                continue
            state = _process_state(seen)
            silence = time.time() - seen["time"]
            where = f"in phase '{seen['phase']}' after step {seen['step']}"
            who = f"Rank {seen['rank']} (host {seen['host']}, process {seen['pid']})"
            if not state and seen["rank"] == gone:
                state = "is gone"
            if state:
                suspects.append(f"{who} {state}; it was {where}.")
            elif silence > 2 * min(self._allowed, 20.0):
                suspects.append(f"{who} gives no sign since {silence:.0f} s; it was {where}.")
            else:
                sentences.append(f"{who} is {where}.")
            gone = None if seen["rank"] == gone else gone
        if gone is not None:  # it took its file with it
            suspects.append(f"Rank {gone} has ended; its own last message says why.")
        shown = suspects or sentences[:8]
        if not shown and self._lease is None:
            return "Where the others are is not known: they have not taken the run up yet."
        return " ".join(shown) or "No other rank shows where it is."

    def _publish(self) -> None:
        if self._lease is None:
            return
        about = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "phase": self._phase,
            "step": self._step,
            "time": time.time(),
        }
        try:
            self._lease.write_status(self._path(self.rank), about)
        except OSError as error:  # a full disk is no reason to stop
            log.debug("cannot publish where rank %d is: %s", self.rank, error)

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"


def _exit_hanging() -> NoReturn:
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    # Not sys.exit: the training thread hangs, and the interpreter would wait for it.
    os._exit(EXIT_HANGING)


def _process_state(seen: dict[str, Any]) -> str:
    """Say what is wrong with the process of another rank on this host; "" when nothing is."""
    if seen["host"] != socket.gethostname() or not Path("/proc/self").exists():
        return ""
    try:
        stat = Path(f"/proc/{seen['pid']}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "is dead"
    return PROCESS_STATES.get(stat.rpartition(")")[2].split()[0], "")
