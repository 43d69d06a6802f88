"""Supervised fine-tuning with TRL: the program that the stage `sft` starts.

{"messages": [...]} per line ──chat template──▶ ids, labels of the assistant's tokens only
    ──(packing: best fit, decreasing)──▶ SFTTrainer ──▶ <output>/model
"""

import logging
from pathlib import Path
from typing import Any

from model.train.finetune import finetune as _tune  # isort: skip  (sets the environment that TRL reads when imported)

from trl import SFTConfig, SFTTrainer

from common.config import from_json
from common.errors import DataError
from model.train.finetune.config import SftJob

log = logging.getLogger("steel.sft")


def main(argv: list[str]) -> int:
    """Fine-tune as the JSON file `argv[0]` says; returns the exit code."""
    job = from_json(SftJob, Path(argv[0]))
    tokenizer = _tune.load_tokenizer(job.model)
    return _tune.fit(job, tokenizer, lambda recorder: build(job, tokenizer, recorder))


def build(job: SftJob, tokenizer: Any, recorder: _tune.Recorder) -> Any:
    """TRL's trainer for a job. Raises DataError when no conversation has an answer left."""
    settings = job.settings
    conversations = _tune.read_rows(job, {"messages": _tune.MESSAGES})
    arguments = SFTConfig(
        **_tune.trainer_arguments(job, settings),
        dataset_num_proc=_tune.preparation_workers(conversations),
        assistant_only_loss=True,
        packing=settings.packing,
        packing_strategy="bfd",
    )
    trainer = SFTTrainer(
        model=_tune.load_model(job.model),
        args=arguments,
        train_dataset=conversations,
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    rows = len(trainer.train_dataset)
    if not rows:
        raise DataError(
            f"no conversation of {job.data} has an answer within max_length = "
            f"{settings.max_length} tokens: raise it"
        )
    log.info("%d rows to train on", rows)
    return trainer


if __name__ == "__main__":
    _tune.run_entry(main)
