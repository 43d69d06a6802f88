"""Pretrain: the program that torchrun starts in every rank.

    python -m model.entry.pretrain JOB.json

Reads a `PretrainJob`, continues whatever its output folder holds, trains to the end and writes
<output>/model. Exit codes: 0 done; 143 stopped by SIGTERM with a complete checkpoint; 2 bad input;
3 no progress for too long, or another rank is gone; 4 a later session took the run up, and this one
ended without writing; 1 anything else.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from common.child import run_job
from common.errors import StageError, SteelError
from model.entry.launch import exit_now
from model.train.build import build
from model.train.callbacks.watchdog import EXIT_HANGING, Watchdog
from model.train.checkpoint.export import write_model
from model.train.checkpoint.folders import complete_checkpoints
from model.train.config import PretrainJob
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.lost_rank import RankLostError, is_lost_rank
from model.train.distributed.signals import EXIT_STOPPED, StopFlag, Stopped
from model.train.run.folder import CHECKPOINTS_FOLDER, MODEL_FOLDER
from model.train.run.lease import Lease
from model.train.train_step import use_deterministic_algorithms

log = logging.getLogger("model.entry.pretrain")


def pretrain(job: PretrainJob) -> None:
    """Train and export. Raises Stopped, or a SteelError."""
    stop = StopFlag().install()
    if job.settings.deterministic:
        use_deterministic_algorithms()
    output, health = Path(job.output), job.settings.health
    allowed = [60 * health.first_step_timeout_minutes, 60 * health.step_timeout_minutes]
    watchdog = Watchdog(
        output, int(os.environ.get("RANK", "0")), first_timeout=allowed[0], timeout=allowed[1]
    ).start()
    try:
        # Messages may take longer than the watchdog allows: it is the one who knows the reason.
        with distributed_context(timeout_minutes=max(allowed) / 60 + 5) as ranks:
            trainer = build(job, ranks, stop, watchdog)
            with trainer.lease.guard():  # whatever ends a session that was replaced, that is why
                try:
                    trainer.fit()
                    _export_model(trainer.lease, ranks)
                finally:
                    trainer.close()
            ranks.barrier()  # no rank checks shards or its lease any more
            if ranks.is_main:
                trainer.lease.release()
    except RuntimeError as error:
        if is_lost_rank(error):
            raise RankLostError(watchdog.explain(error)) from error
        raise
    finally:
        watchdog.end()


def _export_model(lease: Lease, ranks: DistributedContext) -> None:
    """The last checkpoint becomes the stage's model, by rank 0; all fail alike."""
    problem = ""
    if ranks.is_main:
        folder, prepared = lease.run / MODEL_FOLDER, lease.stage(MODEL_FOLDER)
        try:
            with lease.guard():
                write_model(complete_checkpoints(lease.run / CHECKPOINTS_FOLDER)[-1], prepared)
                lease.publish_folder(prepared, folder)
            log.info("model written to %s", folder)
        except (OSError, SteelError) as error:
            problem = str(error)
    if problem := ranks.gather(problem)[0]:
        raise StageError(f"the trained model could not be exported: {problem}")


def _run(job: PretrainJob) -> int:
    """Run the job; returns the exit code."""
    try:
        pretrain(job)
    except Stopped as stopped:
        log.warning("%s", stopped)
        return EXIT_STOPPED
    except RankLostError as error:
        log.error("%s", error)
        return EXIT_HANGING
    return 0


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()  # a bar in a log file is noise
    return run_job(PretrainJob, _run, argv)


if __name__ == "__main__":
    exit_now(main(sys.argv[1:]))
