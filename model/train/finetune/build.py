"""From a job of fine-tuning to a trainer: the one of pretraining, on samples that lie encoded.

    settings ──▶ PretrainSettings of the loop ──▶ model of a folder, optimizer, checkpoints
    samples  ──▶ FinetuneData, HeldOutValidation

Another method brings its samples and its objective: model/train/finetune/method.py.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from common.errors import ConfigError, DataError
from model.attention import choose_attention, choose_for_documents
from model.config import SteelConfig
from model.tokenizer.conversation import conversation_encoder, protect_chat_template
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.train.architectures.probe import check_architecture
from model.train.build import measure_peak_flops, recording_callbacks
from model.train.build_model import build_model, check_memory, parallelize, replace_wrong_kernels
from model.train.callbacks.causal_validation import leaks
from model.train.callbacks.speed import SpeedMonitor, flops_per_token
from model.train.callbacks.watchdog import Watchdog
from model.train.checkpoint.export import model_files
from model.train.checkpoint.retention import CheckpointSettings
from model.train.checkpoint.writer import Checkpoints
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext, resolve_precision
from model.train.distributed.signals import StopFlag
from model.train.finetune.batches import Document, StepOrder
from model.train.finetune.config import FinetuneJob, SftJob
from model.train.finetune.data import FinetuneData, RowLayout
from model.train.finetune.method import Method, Start
from model.train.finetune.prepared import add_to_prepared
from model.train.finetune.samples import training_samples
from model.train.health import Health
from model.train.loss import ModelWithLoss
from model.train.model_settings import check_folder, folder_config
from model.train.optim.optimizer import build_optimizer
from model.train.run.folder import PREPARED_FILE
from model.train.run.handler import FixedLength
from model.train.run.lease import Lease
from model.train.run.length import TrainingLength
from model.train.trainer import Trainer

if TYPE_CHECKING:
    from model.train.distributed.step_outcome import StepOutcome

log = logging.getLogger("steel.finetune")

KEEP_LAST = 2
"""Newest checkpoints that are kept: should the last one be damaged, there is the one before."""
VALIDATIONS = 10
"""Validations of a run whose settings name no interval."""


def sft_method(job: SftJob, tokenizer: PreTrainedTokenizerBase) -> Method:
    """Conversations; the mean over what the assistant says."""
    samples = training_samples(job, tokenizer)

    def documents(number: int) -> list[Document]:
        row = samples[number]
        source = int(samples.name[number])
        return [Document(row["input_ids"], row["labels"], source, number)]

    return Method(samples=samples, documents=documents)


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model; only its chat template makes control tokens.

    Raises DataError when it is missing, is not the model's own, or has no chat template.
    """
    tokenizer = load_folder_tokenizer(Path(folder))
    check_model_folder(Path(folder), tokenizer)
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer in {folder} has no chat template: export the model with Steel, which "
            "puts model/tokenizer/chat_template.jinja beside it"
        )
    return protect_chat_template(tokenizer)


def loop_settings(job: FinetuneJob, total_steps: int, *, packed: bool) -> PretrainSettings:
    """Settings of the loop, which are those of a pretraining that starts from the job's model."""
    settings = job.settings
    warmup = min(math.ceil(settings.warmup_fraction * total_steps), total_steps - 1)
    linear = settings.schedule == "linear"
    return PretrainSettings(
        model=job.model,
        sequence_length=settings.max_length,
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.micro_batch_size,
        steps=total_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=warmup,
        # A decay that takes the whole run is the straight line.
        schedule="wsd" if settings.schedule == "linear" else settings.schedule,
        decay_fraction=1.0 if linear else PretrainSettings.decay_fraction,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        precision=settings.precision,
        eval_interval=settings.eval_interval or max(1, total_steps // VALIDATIONS),
        checkpoints=CheckpointSettings(
            interval=settings.checkpoint_interval,
            keep_last=KEEP_LAST,
            keep_best=1 if settings.keep == "best" else 0,
            export=False,
        ),
        health=settings.health,
        separate_documents=packed,
        activation_checkpointing="full" if settings.activation_checkpointing else "none",
        parallel=settings.parallel,
        kernels=settings.kernels,
        seed=settings.seed,
        log_interval=settings.log_interval,
    )


@dataclass(frozen=True, kw_only=True)
class _Attention:
    """The attention that a model is fine-tuned with, and whether its rows are packed."""

    name: str
    packed: bool
    masked: bool
    """Packed rows need a mask: they are kept as short as one sample may be."""


def choose_packing(job: FinetuneJob, device: torch.device) -> _Attention:
    """Decide on attention and packing, by model, device and precision.

    Raises ConfigError where `packing: true` cannot keep conversations apart.
    """
    config, wanted = folder_config(Path(job.model)), getattr(job.settings, "packing", "auto")
    dtype = resolve_precision(loop_settings(job, 1, packed=True), device)
    name, unmasked = choose_for_documents("auto", config, device=device, dtype=dtype)
    # Each batch is as long as its longest sample.
    alone = choose_attention(
        "auto", config, device=device, dtype=dtype, separate_documents=False, one_length=False
    )
    padded = _Attention(name=alone, packed=False, masked=False)
    if wanted is False or (wanted == "auto" and not unmasked):
        return padded
    if config.model_type != SteelConfig.model_type:
        try:
            check_architecture(config, attention="sdpa", separate_documents=True)
        except ConfigError as error:
            if wanted == "auto":
                log.info("not packed: %s", error)
                return padded
            raise ConfigError(f"packing: true: {error}; or set packing: false") from error
    return _Attention(name=name, packed=True, masked=not unmasked)


def build(
    job: FinetuneJob,
    ranks: DistributedContext,
    stop: StopFlag,
    watchdog: Watchdog | None,
    make_method: Callable[..., Method],
) -> Trainer:
    """Build a trainer, which has the run's lease from here on; called by all ranks.

    make_method: of (job, tokenizer). Raises ConfigError or DataError before any work.
    """
    settings, output = job.settings, Path(job.output)
    check_folder(Path(job.model))
    tokenizer = load_tokenizer(job.model)
    # Samples first: a job without any ends before its model is read.
    method = make_method(job, tokenizer)
    attention = choose_packing(job, ranks.device)
    apart = method.held_out(settings.validation_fraction)
    trained_on = np.flatnonzero(~apart)
    order = StepOrder(
        num_samples=len(trained_on),
        global_batch_size=settings.global_batch_size,
        seed=settings.seed,
        lengths=method.samples.lengths[trained_on] if settings.group_by_length else None,
    )
    total_steps = settings.num_steps(len(trained_on))
    loop = loop_settings(job, total_steps, packed=attention.packed)
    lease = Lease.share(Path(job.scratch), ranks)
    if watchdog is not None:
        watchdog.follow(lease)
    replace_wrong_kernels(loop, tokenizer, ranks)
    language_model, weights = build_model(loop, tokenizer, ranks.device, attention=attention.name)
    set_generation(language_model, Path(job.model), tokenizer)
    flops = flops_per_token(language_model, settings.max_length)
    num_parameters = language_model.num_parameters()
    check_memory(language_model, loop, ranks)
    model_with_loss = ModelWithLoss(language_model)
    parallelize(model_with_loss, language_model, weights, loop, ranks)
    in_a_row = 1 if attention.masked else settings.micro_batch_size
    data = FinetuneData(
        samples=method.samples,
        documents=method.documents,
        annotate=method.annotate,
        numbers=trained_on,
        order=order,
        layout=RowLayout(
            packed=attention.packed,
            micro_batch_size=settings.micro_batch_size,
            row_tokens=in_a_row * settings.max_length * method.documents_of_sample,
            padding_id=int(tokenizer.pad_token_id or 0),
            separate_padding=leaks(model_with_loss),
        ),
        rank=ranks.rank,
        world_size=ranks.world_size,
        num_batches=total_steps,
        device=ranks.device,
    )
    callbacks = recording_callbacks(output, lease, ranks, watchdog)
    callbacks["speed"] = _Speed(
        tokens_per_step=0,
        flops_per_token=flops,
        device=ranks.device,
        world_size=ranks.world_size,
        measured_flops=measure_peak_flops(ranks),
    )
    if apart.any():
        numbers = np.flatnonzero(apart)
        callbacks["validation"] = method.validation(loop.eval_interval, data, numbers)
    elif settings.keep == "best" and ranks.is_main:
        log.warning("keep: best: no set holds out a sample, so the last model is published")
    if ranks.is_main:
        _report(output, data, total_steps)
        log.info(
            "%.2f M parameters, %d steps of %d samples, %d process(es) on %s, attention %s, %s",
            num_parameters / 1e6,
            total_steps,
            settings.global_batch_size,
            ranks.world_size,
            ranks.device.type,
            language_model.config._attn_implementation,
            "packed" if attention.packed else "padded",
        )
    method.before_training(
        Start(
            model_with_loss=model_with_loss,
            dtype=resolve_precision(loop, ranks.device),
            layout=data.layout,
            ranks=ranks,
            stop=stop,
            watchdog=watchdog,
        )
    )
    return Trainer(
        train_step=method.train_step(
            model_with_loss=model_with_loss,
            optimizer=build_optimizer(model_with_loss, loop),
            settings=loop,
            ranks=ranks,
        ),
        open_data=lambda: data,
        request_handler=FixedLength(TrainingLength(initial_steps=total_steps)),
        settings=loop,
        ranks=ranks,
        lease=lease,
        checkpoints=Checkpoints(Path(job.scratch), ranks, lease, loop.checkpoints),
        constant_files={
            "config.json": json.dumps(dataclasses.asdict(job), indent=1),
            **model_files(language_model, tokenizer, resolve_precision(loop, ranks.device)),
        },
        health=Health(settings.health, warmup_steps=loop.warmup_steps),
        stop=stop,
        callbacks=callbacks,
        save_validated=settings.keep == "best",
        same_lines=True,
    )


def set_generation(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Let generation end where a chat turn does: as the template says, or with a document."""
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    ends = {conversation_encoder(tokenizer).turn_end(), tokenizer.eos_token_id} - {None}
    assert model.generation_config is not None
    model.generation_config.eos_token_id = sorted(ends, reverse=True)
    model.generation_config.pad_token_id = tokenizer.pad_token_id


class _Speed(SpeedMonitor):
    """Speed of steps that differ in length."""

    _tokens = 0.0

    def metrics(self, trainer: Trainer, outcome: "StepOutcome") -> dict[str, float]:
        tokens = trainer.data.position(trainer.progress.batch)["data/tokens"]
        self.tokens_per_step = round((tokens - self._tokens) / max(1, self._steps))
        self._tokens = tokens
        return super().metrics(trainer, outcome)

    def on_train_begin(self, trainer: Trainer) -> None:
        self._tokens = trainer.data.position(trainer.progress.batch)["data/tokens"]


def _report(output: Path, data: FinetuneData, total_steps: int) -> None:
    """Add to prepared.json what is known of steps and rows."""
    add_to_prepared(
        output / PREPARED_FILE,
        steps=total_steps,
        packed=data.layout.packed,
        real_tokens=round(data.share_of_real_tokens(), 6),
    )
