"""A training as a program of every rank: its ranks, its watchdog, its end.

    ranks ─▶ build ─▶ fit ─▶ the last checkpoint, or the best, becomes a Transformers folder

Exit codes: 0 done; 143 stopped by SIGTERM with a complete checkpoint; 2 bad input; 3 no progress
for too long, or another rank is gone; 4 a later session took the run up, and this one ended without
writing; 1 anything else.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from common.errors import DataError, StageError, SteelError
from common.files import PARTIAL
from model.train.callbacks.watchdog import EXIT_HANGING, Watchdog
from model.train.checkpoint.export import write_model
from model.train.checkpoint.folders import complete_checkpoints, read_info
from model.train.checkpoint.retention import best_steps
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.lifeline import lifeline
from model.train.distributed.lost_rank import RankLostError, is_lost_rank
from model.train.distributed.signals import EXIT_STOPPED, StopFlag, Stopped
from model.train.health import HealthSettings
from model.train.trainer import Trainer

log = logging.getLogger(__name__)

Build: TypeAlias = Callable[[DistributedContext, StopFlag, Watchdog], Trainer]
"""Builds the trainer of this rank."""


def train(
    build: Build, *, status: Path, model: Path, health: HealthSettings, best: bool = False
) -> int:
    """Train to the end and publish the model; returns the exit code.

    Args:
        build: makes the trainer.
        status: folder of the run, where each rank says how far it is.
        model: folder that the model becomes.
        health: times allowed without progress.
        best: publish the checkpoint of the lowest validation loss, not the last one.

    Raises SteelErrors of the build and of the training.
    """
    try:
        _train(build, status, model, health, best)
    except Stopped as stopped:
        log.warning("%s", stopped)
        return EXIT_STOPPED
    except RankLostError as error:
        log.error("%s", error)
        return EXIT_HANGING
    return 0


def _train(build: Build, status: Path, model: Path, health: HealthSettings, best: bool) -> None:
    stop = StopFlag().install()
    allowed = [60 * health.first_step_timeout_minutes, 60 * health.step_timeout_minutes]
    watchdog = Watchdog(
        status, int(os.environ.get("RANK", "0")), first_timeout=allowed[0], timeout=allowed[1]
    ).start()
    try:
        # Messages may take longer than the watchdog allows: it is the one who knows the reason.
        with (
            distributed_context(timeout_minutes=max(allowed) / 60 + 5) as ranks,
            lifeline(ranks, watchdog.lost) as leave_line,
        ):
            trainer = build(ranks, stop, watchdog)
            with trainer.lease.guard():  # whatever ends a session that was replaced, that is why
                try:
                    trainer.fit()
                    publish(trainer, model, best=best)
                finally:
                    leave_line()  # what follows meets the others through gloo alone, or not at all
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


def publish(trainer: Trainer, model: Path, *, best: bool) -> None:
    """A checkpoint becomes the model, by rank 0; all fail alike.

    Every file of it is compared with its checksum: what is damaged is never published.
    """
    ranks, lease = trainer.ranks, trainer.lease
    problem = ""
    if ranks.is_main:
        prepared = lease.stage(model.name)
        try:
            with lease.guard():
                write_model(chosen_checkpoint(trainer.checkpoints.folder, best=best), prepared)
                lease.publish_folder(prepared, model)
            # A stage's folder gets its name when all is done.
            log.info("model written to %s", str(model).replace(f"{PARTIAL}/", "/"))
        except (OSError, SteelError) as error:
            problem = str(error)
    if problem := ranks.gather(problem)[0]:
        raise StageError(f"the trained model could not be exported: {problem}")


def chosen_checkpoint(folder: Path, *, best: bool) -> Path:
    """The last complete checkpoint; best: the one of the lowest validation loss, if one has one."""
    complete = complete_checkpoints(folder)
    if not complete:
        raise DataError(f"{folder} holds no complete checkpoint")
    if best:
        infos = {path: read_info(path) for path in complete}
        for step in best_steps(infos.values(), 1):
            return next(path for path, info in infos.items() if info.step == step)
    return complete[-1]
