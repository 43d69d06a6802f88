"""A fine-tuning as a program of every rank, whatever its method."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from model.train.finetune.build import build
from model.train.finetune.config import FinetuneJob
from model.train.finetune.method import Method
from model.train.run.folder import MODEL_FOLDER
from model.train.run.program import train

log = logging.getLogger("steel.finetune")

JobT = TypeVar("JobT", bound=FinetuneJob)


def finetune(job: JobT, method: Callable[[JobT, PreTrainedTokenizerBase], Method]) -> int:
    """Train and publish, unless that is done; returns the exit code. Raises a SteelError."""
    model = Path(job.output) / MODEL_FOLDER
    if (model / "config.json").exists():
        log.info("%s is finished", model)
        return 0
    return train(
        lambda ranks, stop, watchdog: build(job, ranks, stop, watchdog, method),
        status=Path(job.scratch),
        model=model,
        health=job.settings.health,
        best=job.settings.keep == "best",
    )
