"""Direct preference optimization with TRL: the program that the stage `dpo` starts.

{"prompt", "chosen", "rejected"} per line ──chat template──▶ DPOTrainer ──▶ <output>/model
policy and reference both start from the SFT model; the reference stays as it is
"""

import logging
from pathlib import Path
from typing import Any

from model.train.finetune import finetune as _tune  # isort: skip  (sets the environment that TRL reads when imported)

from trl import DPOConfig, DPOTrainer

from common.config import from_json
from common.errors import DataError
from model.train.finetune.config import DpoJob

log = logging.getLogger("steel.dpo")


def main(argv: list[str]) -> int:
    """Optimize as the JSON file `argv[0]` says; returns the exit code."""
    job = from_json(DpoJob, Path(argv[0]))
    tokenizer = _tune.load_tokenizer(job.model)
    return _tune.fit(job, tokenizer, lambda recorder: build(job, tokenizer, recorder))


def build(job: DpoJob, tokenizer: Any, recorder: _tune.Recorder) -> Any:
    """TRL's trainer for a job. Raises DataError when no pair has an answer left."""
    settings = job.settings
    pairs = _tune.read_rows(job, dict.fromkeys(("prompt", "chosen", "rejected"), _tune.MESSAGES))
    arguments = DPOConfig(
        **_tune.trainer_arguments(job, settings),
        dataset_num_proc=_tune.preparation_workers(pairs),
        beta=settings.beta,
        loss_type=[settings.loss],
    )
    trainer = DPOTrainer(
        model=_tune.load_model(job.model),
        # Given, because TRL would otherwise reload it from disk by a class it doesn't know.
        ref_model=_tune.load_model(job.model),
        args=arguments,
        train_dataset=pairs,
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    rows = len(trainer.train_dataset)
    if not rows:
        raise DataError(
            f"no pair of {job.data} has an answer within max_length = {settings.max_length} "
            "tokens: raise it"
        )
    log.info("%d pairs to train on", rows)
    return trainer


if __name__ == "__main__":
    _tune.run_entry(main)
