"""All checkpoints of a pretraining, each measured once: now, or until the run ends.

    every few seconds: list checkpoints ─▶ the oldest without a record ─▶ measure ─▶ record, curves

A record is one file, named by step and digest, written whole when its checkpoint is measured. So a
watcher that was killed goes on behind the last record, and a second one for the same run and
questions is refused while the first one lives.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import SteelError
from common.files import make_folder, remove_folder, write_json
from common.paths import display
from tasks.checkpoint_scores.curves import FOLDER, publish, read_records
from tasks.checkpoint_scores.measure import measure
from tasks.checkpoint_scores.questions import Questions
from tasks.checkpoint_scores.run import Checkpoint, PretrainingRun
from tasks.core.artifacts import Logger
from tasks.core.lock import StageLock

ATTEMPTS = 2
"""A checkpoint is given up after so many, until the next start."""

MISSED_SECONDS = 0.5
"""Wait after an attempt without a record."""

POLL_SECONDS = 3.0
"""Time between two looks at a run's checkpoints."""


@dataclass(kw_only=True)
class Watched:
    """Outcome for each of a run's checkpoints."""

    folder: Path
    """Folder of the records and curves."""
    measured: list[int] = field(default_factory=list)
    """Steps of the checkpoints that were measured now."""
    known: int = 0
    """Checkpoints that had been measured before."""
    gone: list[int] = field(default_factory=list)
    """Steps of those that were removed before they could be measured."""
    failed: dict[int, str] = field(default_factory=dict)
    """Step of a checkpoint that could not be measured -> the reason."""
    ended: bool = False
    """True if the run was finished, so that the curves are complete."""


def scores_folder(store: Path, run: PretrainingRun, questions: Questions) -> Path:
    """Place of the records of a run, asked these questions."""
    return store / FOLDER / run.key / questions.key


class Watcher:
    """Measures the checkpoints of one run."""

    def __init__(
        self,
        run: PretrainingRun,
        questions: Questions,
        *,
        store: Path,
        log: "Logger | None" = None,
        on_record: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    ) -> None:
        """on_record: called with all records after each one."""
        self.run, self.questions, self.store = run, questions, store
        self.log: Logger = log or logging.getLogger("steel.checkpoint_scores")
        self.on_record = on_record
        self.folder = scores_folder(store, run, questions)
        self.result = Watched(folder=self.folder)
        self._seen: dict[str, Checkpoint] = {}
        self._closed: set[str] = set()
        """Digests of checkpoints that are done with: recorded, gone or failed."""
        self._misses: dict[str, int] = {}
        """Digest of a checkpoint -> attempts without a record."""

    def __call__(self, *, watch: bool, poll_seconds: float = POLL_SECONDS) -> Watched:
        """Measure what is there and, with `watch`, what comes, until the run ends.

        Raises LockedError where another process measures the same.
        """
        make_folder(self.folder / "steps")
        what = f"the evaluation of checkpoints of {self.run.key}"
        with StageLock(self.folder.with_suffix(".lock"), what=what) as lock:
            work = self.folder / "work"
            remove_folder(work)  # of one that was killed
            make_folder(work)
            texts = self.questions.write(self.folder / "texts")
            self._closed = {record["digest"] for record in read_records(self.folder)}
            self.result.known = len(self._closed)
            self._say()
            stopped_since: float | None = None
            while True:
                # Asked before the list is read: what a finished run holds is all that comes.
                self.result.ended = self.run.finished
                if (checkpoint := self._next()) is not None:
                    self._measure(checkpoint, texts, work, lock)
                    stopped_since = None
                    continue
                if self.result.ended or not watch:
                    break
                if self.run.running:
                    stopped_since = None
                else:
                    stopped_since = stopped_since or time.monotonic()
                    waited = time.monotonic() - stopped_since
                    if waited > 60 * self.questions.config.stopped_minutes:
                        self.log.warning(
                            "%s is stopped at the moment: run again when it goes on", self.run.key
                        )
                        break
                lock.check()
                time.sleep(poll_seconds)
            remove_folder(work)
            self._publish()
        return self.result

    def _say(self) -> None:
        config = self.questions.config
        place = f"GPU {config.gpu}" if config.gpu is not None else "the CPU"
        self.log.info(
            "checkpoints of %s: %d measured before; on %s, %d thread(s), lowest priority; takes a "
            "model in float32 in memory, and an export of it on the disk (%s)",
            self.run.key,
            self.result.known,
            place,
            config.threads,
            display(self.folder),
        )
        for note in self.questions.notes:
            self.log.warning("%s", note)

    def _next(self) -> Checkpoint | None:
        """The oldest checkpoint that is to be measured: retention removes it first."""
        there = {checkpoint.digest: checkpoint for checkpoint in self.run.checkpoints()}
        for digest in self._seen.keys() - there.keys() - self._closed:
            self._lost(self._seen[digest])
        self._seen |= there
        return next((c for c in there.values() if c.digest not in self._closed), None)

    def _lost(self, checkpoint: Checkpoint) -> None:
        self._closed.add(checkpoint.digest)
        self.result.gone.append(checkpoint.step)
        self.log.warning(
            "the checkpoint of step %d was removed before it could be measured: raise "
            "checkpoints.keep_last or lower checkpoint_scores.limit to have it",
            checkpoint.step,
        )

    def _measure(
        self, checkpoint: Checkpoint, texts: dict[str, str], work: Path, lock: StageLock
    ) -> None:
        def check() -> None:
            if lock.lost:
                lock.check()

        try:
            record = measure(
                checkpoint,
                self.questions,
                texts,
                work=work,
                cache=self.store / "cache",
                check=check,
            )
            reason = "files that it lists are missing"
        except SteelError as error:
            check()
            record, reason = None, str(error)
        if record is None:
            # Gone, as the next look tells; or RUN.partial has become RUN; or damaged.
            time.sleep(MISSED_SECONDS)
            misses = self._misses[checkpoint.digest] = self._misses.get(checkpoint.digest, 0) + 1
            if misses >= ATTEMPTS and checkpoint.digest in {
                c.digest for c in self.run.checkpoints()
            }:
                self._closed.add(checkpoint.digest)
                self.result.failed[checkpoint.step] = reason
                self.log.warning("step %d is not measured: %s", checkpoint.step, reason)
            return
        lock.check()
        name = f"{checkpoint.path.name}-{checkpoint.digest}.json"
        write_json(self.folder / "steps" / name, record)
        self._closed.add(checkpoint.digest)
        self.result.measured.append(checkpoint.step)
        self.log.info(
            "step %d, %s tokens: measured in %.0f s",
            checkpoint.step,
            f"{record['tokens']:,}",
            record["seconds"],
        )
        self._publish()

    def _publish(self) -> None:
        publish(self.folder)
        self.on_record(read_records(self.folder))
