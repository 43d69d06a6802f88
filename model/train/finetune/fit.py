"""Fine-tuning with a TRL trainer, from the job to the published model.

    job.json ──▶ Transformers folder ──▶ TRL trainer ──▶ <output>/model   (published by one rename)
                                            │  ▲
          <output>/metrics.jsonl ◀── Recorder  └── <scratch>/checkpoint-N with complete.json

Checkpoints and the model are prepared in the folder of this session, in <scratch>/lease, so that
what outlives an interrupted run changes nothing in the one that goes on (model/train/run/lease.py).
A checkpoint of the last step is never resumed: its weights are the result.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from common.child import run_job
from model.tokenizer.conversation import conversation_encoder
from model.tokenizer.folder import save_digest
from model.train.distributed.signals import EXIT_STOPPED, StopFlag
from model.train.finetune.checkpoints import (
    complete_checkpoints,
    intact_checkpoint,
    is_last_step,
    remove_others,
)
from model.train.finetune.config import FinetuneJob
from model.train.finetune.recorder import Recorder
from model.train.finetune.trainer import Build, JobT, load_model, load_tokenizer, make_trainer
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.lease import Lease
from model.train.run.metrics import JsonlSink

log = logging.getLogger("steel.finetune")


def fit(job: JobT, build: Build[JobT]) -> int:
    """Train from the newest complete checkpoint to the end, and publish the model.

    Returns the exit code: 0, or EXIT_STOPPED after a SIGTERM and a complete checkpoint.
    Raises StageError when the loss is not finite, DataError when there is nothing to train on.
    """
    scratch, result = Path(job.scratch), Path(job.output) / MODEL_FOLDER
    if (result / "config.json").exists():
        log.info("%s is finished", result)
        return 0
    newest = next(reversed(complete_checkpoints(scratch)), None)
    if newest and is_last_step(newest) and intact_checkpoint(scratch) == newest:
        log.info("%s holds the last step", newest.name)
        if int(os.environ.get("RANK", "0")) == 0:
            publish_last(job, newest, result, Lease.take(scratch))
        return 0
    recorder = Recorder(JsonlSink(Path(job.output) / METRICS_FILE), StopFlag().install())
    trainer = make_trainer(job, build, recorder)
    lease = Lease.share(scratch, _Ranks())
    recorder.follow(lease)
    trainer.args.output_dir = str(lease.folder)
    with lease.guard():  # whatever ends a session that was replaced, that is why
        return _train(job, trainer, recorder, lease)


def _train(job: FinetuneJob, trainer: Any, recorder: Recorder, lease: Lease) -> int:
    """Train, now that nobody else writes; returns the exit code."""
    scratch, result = Path(job.scratch), Path(job.output) / MODEL_FOLDER
    found = intact_checkpoint(scratch) if trainer.is_world_process_zero() else None
    newest = _Ranks().gather(found)[0]  # one rank reads it all, and decides
    if newest is not None and is_last_step(newest):  # written while this session began
        if trainer.is_world_process_zero():
            publish_last(job, newest, result, lease)
        return 0
    if trainer.is_world_process_zero():
        remove_others(scratch, newest, lease)
    if dist.is_initialized():
        dist.barrier()
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if recorder.stopped:
        log.warning("stopped after step %d, with a complete checkpoint", trainer.state.global_step)
        return EXIT_STOPPED
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        publish_model(trained, trainer.processing_class, result, lease)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return 0


class _Ranks:
    """The ranks of this launch, as a lease needs them."""

    @property
    def is_main(self) -> bool:
        return not dist.is_initialized() or dist.get_rank() == 0

    def gather(self, value: Any) -> list[Any]:
        if not dist.is_initialized():
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values


def publish_last(job: FinetuneJob, checkpoint: Path, result: Path, lease: Lease) -> None:
    """Publish the weights of the last step's checkpoint."""
    publish_model(load_model(str(checkpoint)), load_tokenizer(job.model), result, lease)


def publish_model(
    trained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, result: Path, lease: Lease
) -> None:
    """Write model and tokenizer as a Transformers folder that appears complete or not at all."""
    # A chat turn ends as the template says (<|im_end|>), a document with eos: generation stops at
    # both.
    ends = {conversation_encoder(tokenizer).turn_end(), tokenizer.eos_token_id} - {None}
    trained.generation_config.eos_token_id = sorted(ends, reverse=True)
    trained.generation_config.pad_token_id = tokenizer.pad_token_id
    for config in (trained.config, trained.config.get_text_config()):
        if hasattr(config, "output_router_logits"):  # TRL sets it, for training alone
            config.output_router_logits = False
    with lease.guard():
        prepared = lease.stage(result.name)
        prepared.mkdir()
        trained.save_pretrained(prepared)
        tokenizer.save_pretrained(prepared)
        save_digest(tokenizer, prepared)
        lease.publish_folder(prepared, result)


def run_entry(job_type: type[JobT], build: Build[JobT]) -> None:
    """Run a method as a program `JOB.json`: exit 0, 2 for a user's error, 143 after SIGTERM."""
    if os.environ.get("WORLD_SIZE") == "1":
        # A process group of one would only wrap the model in DDP.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
    disable_progress_bar()
    for noisy in ("datasets", "transformers", "accelerate", "trl"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sys.exit(run_job(job_type, lambda job: fit(job, build), sys.argv[1:]))
