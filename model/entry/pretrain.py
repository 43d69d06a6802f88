"""Pretrain: the program that torchrun starts in every rank.

    python -m model.entry.pretrain JOB.json

Reads a `PretrainJob`, continues whatever its output folder holds, trains to the end and writes
<output>/model. Exit codes: model/train/run/program.py.
"""

import warnings
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from common.child import run_job
from model.entry.launch import run_and_exit
from model.train.build import build
from model.train.config import PretrainJob
from model.train.run.folder import MODEL_FOLDER
from model.train.run.program import train
from model.train.train_step import use_deterministic_algorithms


def pretrain(job: PretrainJob) -> int:
    """Train and export; returns the exit code. Raises a SteelError."""
    if job.settings.deterministic:
        use_deterministic_algorithms()
    output = Path(job.output)
    return train(
        lambda ranks, stop, watchdog: build(job, ranks, stop, watchdog),
        status=output,
        model=output / MODEL_FOLDER,
        health=job.settings.health,
    )


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()  # a bar in a log file is noise
    return run_job(PretrainJob, pretrain, argv)


if __name__ == "__main__":
    run_and_exit(main)
