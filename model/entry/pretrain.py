"""Pretrain: the program that torchrun starts in every rank.

    python -m model.entry.pretrain JOB.json

Reads a `PretrainJob`, continues whatever its output folder holds, trains to the end and writes
<output>/model. Exit codes: 0 done; 143 stopped by SIGTERM with a complete checkpoint; 2 bad input;
1 anything else.
"""

import logging
import sys
import warnings
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from model.data.integrity import forget_sessions
from model.errors import ConfigError, DataError, SteelError
from model.train.build import build
from model.train.config import PretrainJob
from model.train.export import export
from model.train.parallel import parallel, resolve_precision
from model.train.signals import EXIT_STOPPED, StopFlag, Stopped

log = logging.getLogger("model.entry.pretrain")

MODEL_FOLDER = "model"


def pretrain(job: PretrainJob) -> None:
    """Train and export. Raises Stopped, or a SteelError."""
    stop = StopFlag().install()
    with parallel() as ranks:
        run = build(job, ranks, stop)
        try:
            run.trainer.fit()
        finally:
            run.trainer.data.loader.close()
        export(
            run.model,
            run.tokenizer,
            Path(job.output) / MODEL_FOLDER,
            ranks,
            dtype=resolve_precision(job.settings, ranks.device),
        )
        if ranks.is_main:
            forget_sessions(Path(job.output))
            log.info("model written to %s", Path(job.output) / MODEL_FOLDER)


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()  # a bar in a log file is noise
    if len(argv) != 1:
        log.error("usage: python -m model.entry.pretrain JOB.json")
        return 2
    try:
        pretrain(PretrainJob.read(Path(argv[0])))
    except Stopped as stopped:
        log.warning("%s", stopped)
        return EXIT_STOPPED
    except SteelError as error:
        log.error("%s", error)
        return 2 if isinstance(error, ConfigError | DataError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
