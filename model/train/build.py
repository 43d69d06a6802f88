"""From a job to a trainer: tokenizer, model, data, callbacks, optimizer."""

import dataclasses
import json
import logging
from pathlib import Path

import torch

from common.config import validate
from common.errors import ConfigError
from model.data import PackedDataset, PackedManifest, StepLoader
from model.data.shard_verifier import ShardVerifier, marks_folder
from model.routing_statistics import RoutingStatistics
from model.train.build_model import build_model, check_memory, parallelize, replace_wrong_kernels
from model.train.callbacks.callback import Callback
from model.train.callbacks.causal_validation import check_measurable
from model.train.callbacks.console import ConsoleLog
from model.train.callbacks.energy import add_energy
from model.train.callbacks.export import BackgroundExport
from model.train.callbacks.health_log import HealthLog
from model.train.callbacks.metrics_file import MetricsFile
from model.train.callbacks.profiler import Profiler
from model.train.callbacks.sessions import SessionLog
from model.train.callbacks.speed import SpeedMonitor, flops_per_token
from model.train.callbacks.validation import Validation
from model.train.callbacks.watchdog import Watchdog
from model.train.checkpoint.export import model_files
from model.train.checkpoint.writer import Checkpoints
from model.train.config import PretrainJob, PretrainSettings
from model.train.distributed.context import DistributedContext, resolve_precision
from model.train.distributed.signals import StopFlag
from model.train.health import Health
from model.train.loss import ModelWithLoss
from model.train.model_settings import check_model
from model.train.optim.optimizer import build_optimizer
from model.train.run.folder import (
    CHECKPOINTS_FOLDER,
    EXPORTS_FOLDER,
    HEALTH_FILE,
    METRICS_FILE,
    SESSIONS_FILE,
    VERIFIED_FOLDER,
)
from model.train.run.handler import RequestHandler, from_main
from model.train.run.lease import Lease
from model.train.run.plan import RunPlan
from model.train.throughput.peak_flops import matmul_flops
from model.train.tokenizers import training_tokenizer
from model.train.train_step import TrainStep
from model.train.trainer import Trainer
from model.train.training_data import TrainingData

log = logging.getLogger(__name__)


def check_job(job: PretrainJob, ranks: DistributedContext) -> PackedManifest:
    """Refuse a job that cannot be run, before its session takes the run from another one.

    Returns the manifest of the data. Raises ConfigError or DataError.
    """
    validate(job.settings, "pretrain")
    job.settings.check_ranks(ranks.world_size)
    check_model(job.settings)
    manifest = PackedManifest.read(Path(job.packed) / "shards")
    from_main(ranks, lambda: RunPlan.read(Path(job.output), job.settings, manifest))
    return manifest


def build(
    job: PretrainJob, ranks: DistributedContext, stop: StopFlag, watchdog: Watchdog | None = None
) -> Trainer:
    """Build a trainer, which has the run's lease from here on; called by all ranks.

    Raises ConfigError or DataError before any work.
    """
    settings, packed, output = job.settings, Path(job.packed), Path(job.output)
    manifest = check_job(job, ranks)
    tokenizer = training_tokenizer(settings, packed, manifest.tokenizer_digest)
    lease = Lease.share(output, ranks)
    if watchdog is not None:
        watchdog.follow(lease)
    # Journal and requests are read from here on: no other session changes them any more.
    handler = RequestHandler(lease, ranks, settings, manifest)
    replace_wrong_kernels(settings, tokenizer, ranks)
    language_model, weights = build_model(settings, tokenizer, ranks.device)
    flops = flops_per_token(language_model, settings.sequence_length)
    num_parameters = language_model.num_parameters()
    check_memory(language_model, settings, ranks)
    model_with_loss = ModelWithLoss(language_model)
    parallelize(model_with_loss, language_model, weights, settings, ranks)
    verifier = open_shard_verifier(lease)
    profiler = Profiler(
        settings.profile, output, ranks.rank, lease, cuda=ranks.device.type == "cuda"
    )
    handler.profile = profiler.request
    callbacks = build_callbacks(settings, lease, ranks, flops, profiler, watchdog)
    trainer = Trainer(
        train_step=TrainStep(
            model_with_loss=model_with_loss,
            optimizer=build_optimizer(model_with_loss, settings),
            settings=settings,
            ranks=ranks,
            routing=RoutingStatistics.of(language_model, ranks.device),
        ),
        open_data=lambda: open_data(handler.plan, ranks, verifier),
        request_handler=handler,
        settings=settings,
        ranks=ranks,
        lease=lease,
        checkpoints=Checkpoints(
            output / CHECKPOINTS_FOLDER,
            ranks,
            lease,
            settings.checkpoints,
            on_permanent=lambda paths: set().union(
                *(callback.keep_checkpoints(paths) for callback in callbacks.values())
            ),
        ),
        constant_files={
            "config.json": json.dumps(dataclasses.asdict(job), indent=1),
            **model_files(language_model, tokenizer, resolve_precision(settings, ranks.device)),
        },
        health=Health(settings.health, warmup_steps=settings.warmup_steps),
        stop=stop,
        callbacks=callbacks,
    )
    assert isinstance(trainer.data, TrainingData)
    check_validation(settings, manifest, trainer.data)
    check_measurable(model_with_loss, trainer.data.num_validation)
    if ranks.is_main:
        log.info(
            "%.2f M parameters, %d steps of %d samples x %d tokens, %d process(es) on %s",
            num_parameters / 1e6,
            trainer.total_steps,
            settings.global_batch_size,
            settings.sequence_length,
            ranks.world_size,
            ranks.device.type,
        )
    return trainer


def recording_callbacks(
    folder: Path, lease: Lease, ranks: DistributedContext, watchdog: Watchdog | None
) -> dict[str, Callback]:
    """The callbacks of any training that only record: by rank 0, in files of `folder`."""
    callbacks: dict[str, Callback] = {} if watchdog is None else {"watchdog": watchdog}
    if ranks.is_main:
        callbacks |= {
            "metrics_file": MetricsFile(folder / METRICS_FILE, lease),
            "health_log": HealthLog(folder / HEALTH_FILE, lease),
            "sessions": SessionLog(folder / SESSIONS_FILE, lease),
            "console": ConsoleLog(),
        }
    add_energy(callbacks, ranks.device)
    return callbacks


def build_callbacks(
    settings: PretrainSettings,
    lease: Lease,
    ranks: DistributedContext,
    flops_per_token: float,
    profiler: Profiler,
    watchdog: Watchdog | None,
) -> dict[str, Callback]:
    """The table of callbacks by name, in the order in which they are called.

    A callback of every rank must do the same on all of them where it calls a collective.
    """
    run = lease.run
    callbacks = recording_callbacks(run, lease, ranks, watchdog)
    callbacks |= {
        "speed": SpeedMonitor(
            tokens_per_step=settings.global_batch_size * settings.sequence_length,
            flops_per_token=flops_per_token,
            device=ranks.device,
            world_size=ranks.world_size,
            measured_flops=measure_peak_flops(ranks),
        ),
        "validation": Validation(settings.eval_interval),
        "profiler": profiler,
    }
    if ranks.is_main and settings.checkpoints.export:
        callbacks["export"] = BackgroundExport(run / EXPORTS_FOLDER, lease)
    return callbacks


def measure_peak_flops(ranks: DistributedContext) -> float:
    """FLOP/s that all ranks reach together in matrix products; called by all at once."""
    dtype = torch.bfloat16 if ranks.device.type == "cuda" else torch.float32
    ranks.barrier()
    return float(sum(ranks.gather(matmul_flops(ranks.device, dtype))))


def check_validation(
    settings: PretrainSettings, manifest: PackedManifest, data: TrainingData
) -> None:
    """Raise ConfigError where validations are asked for, and there is nothing to validate with."""
    if not settings.eval_interval or data.num_validation:
        return
    number = sum(manifest.documents_by_source("validation").values())
    tokens = sum(manifest.tokens_by_source("validation").values())
    raise ConfigError(
        f"pretrain: eval_interval = {settings.eval_interval}, but no block of validation can be "
        f"cut: pack.validation_fraction = {manifest.validation_fraction} held out {number} "
        f"documents of {tokens} tokens, a block takes {settings.sequence_length + 1} from one "
        "shard. Pack with a larger pack.validation_fraction (0.05, say), lower sequence_length, or "
        "set eval_interval: 0"
    )


def open_shard_verifier(lease: Lease) -> ShardVerifier:
    """Build the verifier of shards in this session, for all ranks of a machine."""
    with lease.guard():
        return ShardVerifier(marks_folder(lease.folder / VERIFIED_FOLDER))


def open_data(plan: RunPlan, ranks: DistributedContext, verifier: ShardVerifier) -> TrainingData:
    """This rank's share of a run's data, appended ones included."""
    settings, order, folder = plan.settings, plan.order, plan.base.folder
    assert folder is not None, "the first manifest was read from somewhere"
    held_out = order.num_validation_samples
    if settings.validation_samples:
        held_out = min(held_out, settings.validation_samples)
    for source, tokens in order.sources_without_samples().items() if ranks.is_main else ():
        log.warning(
            "source %s (%d tokens) makes no sample of %d tokens: its shards are shorter, or its "
            "weight is too small; nothing of it is trained on",
            source,
            tokens,
            settings.sequence_length,
        )
    if plan.base.validation_fraction and ranks.is_main:
        tokens_held_out = plan.base.tokens_by_source("validation")
        for source, number in order.validation_samples_by_source().items():
            if not number:
                log.warning(
                    "source %s has no validation loss of its own: its held-out documents have %d "
                    "tokens, too few for a block of %d",
                    source,
                    tokens_held_out[source],
                    settings.sequence_length,
                )
    loader = StepLoader(
        PackedDataset(folder, order, verifier=verifier),
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.micro_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        separate_documents=settings.separate_documents,
        pin_memory=ranks.device.type == "cuda",
    )
    return TrainingData(
        loader=loader,
        validation=PackedDataset(folder, order, "validation", verifier=verifier),
        num_validation=held_out,
    )
