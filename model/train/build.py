"""From a job to a trainer: tokenizer, model, data, optimizer, in that order."""

import dataclasses
import json
import logging
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import ConfigError, DataError
from model.attention import check_attention, choose_attention
from model.config import SteelConfig
from model.data import DataState, PackedDataset, PackedManifest, StepLoader
from model.data.shard_verifier import ShardVerifier, marks_folder, remove_marks
from model.train.activation_checkpoint import checkpoint_activations
from model.train.callbacks.export import Exporter
from model.train.callbacks.peak_flops import matmul_flops
from model.train.callbacks.profiler import Profiler
from model.train.callbacks.speed import SpeedMonitor, flops_per_token
from model.train.callbacks.watchdog import Watchdog
from model.train.checkpoint.export import model_documents
from model.train.checkpoint.writer import Checkpoints
from model.train.config import PretrainJob, PretrainSettings
from model.train.distributed.context import DistributedContext, distribute, resolve_precision
from model.train.distributed.initialise import FolderWeights, RandomWeights
from model.train.distributed.signals import StopFlag
from model.train.health import Health
from model.train.loss import ModelWithLoss
from model.train.optimizer import build_optimizer
from model.train.run.folder import (
    CHECKPOINTS_FOLDER,
    EXPORTS_FOLDER,
    HEALTH_FILE,
    METRICS_FILE,
    SESSIONS_FILE,
    VERIFIED_FOLDER,
)
from model.train.run.handler import RequestHandler
from model.train.run.metrics import JsonLines, JsonlSink
from model.train.run.plan import RunPlan
from model.train.trainer import Trainer, TrainingData

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trainer, and what its export needs."""

    trainer: Trainer
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def build(
    job: PretrainJob, ranks: DistributedContext, stop: StopFlag, watchdog: Watchdog | None = None
) -> Run:
    """Build a run; called by all ranks. Raises ConfigError or DataError before any work."""
    settings, packed, output = job.settings, Path(job.packed), Path(job.output)
    settings.check()
    settings.check_ranks(ranks.world_size)
    tokenizer = AutoTokenizer.from_pretrained(packed / "tokenizer", trust_remote_code=False)
    manifest = PackedManifest.read(packed / "shards")
    handler = RequestHandler(output, ranks, settings, manifest)
    language_model, weights = build_model(settings, tokenizer, ranks.device)
    flops = flops_per_token(language_model, settings.sequence_length)
    num_parameters = language_model.num_parameters()
    model_with_loss = ModelWithLoss(language_model)
    parallelize(model_with_loss, language_model, weights, settings, ranks)
    verifier = open_shard_verifier(output, ranks)
    exporter = None
    if ranks.is_main and settings.checkpoints.export:
        exporter = Exporter(output / EXPORTS_FOLDER)
    trainer = Trainer(
        model_with_loss=model_with_loss,
        optimizer=build_optimizer(model_with_loss, settings),
        open_data=lambda: open_data(handler.plan, ranks, verifier, output),
        request_handler=handler,
        settings=settings,
        ranks=ranks,
        checkpoints=Checkpoints(
            output / CHECKPOINTS_FOLDER,
            ranks,
            settings.checkpoints,
            on_kept=exporter.update if exporter is not None else lambda paths: set(),
        ),
        documents={
            "config.json": json.dumps(dataclasses.asdict(job), indent=1),
            **model_documents(language_model, tokenizer, resolve_precision(settings, ranks.device)),
        },
        exporter=exporter,
        health=Health(settings.health, warmup_steps=settings.warmup_steps),
        sink=JsonlSink(output / METRICS_FILE) if ranks.is_main else None,
        events=JsonLines(output / HEALTH_FILE) if ranks.is_main else None,
        sessions=JsonLines(output / SESSIONS_FILE) if ranks.is_main else None,
        watchdog=watchdog,
        stop=stop,
        speed=SpeedMonitor(
            tokens_per_step=settings.global_batch_size * settings.sequence_length,
            flops_per_token=flops,
            device=ranks.device,
            world_size=ranks.world_size,
            measured_flops=measure_peak_flops(ranks),
        ),
        profiler=Profiler(settings.profile, output, ranks.rank, cuda=ranks.device.type == "cuda"),
    )
    if ranks.is_main:
        log.info(
            "%.2f M parameters, %d steps of %d samples x %d tokens, %d process(es) on %s",
            num_parameters / 1e6,
            handler.length.total_steps,
            settings.global_batch_size,
            settings.sequence_length,
            ranks.world_size,
            ranks.device.type,
        )
    return Run(trainer=trainer, model=language_model, tokenizer=tokenizer)


def measure_peak_flops(ranks: DistributedContext) -> float:
    """FLOP/s that all ranks reach together in matrix products; called by all at once."""
    dtype = torch.bfloat16 if ranks.device.type == "cuda" else torch.float32
    ranks.barrier()
    return float(sum(ranks.gather(matmul_flops(ranks.device, dtype))))


def parallelize(
    model_with_loss: ModelWithLoss,
    language_model: PreTrainedModel,
    weights: RandomWeights,
    settings: PretrainSettings,
    ranks: DistributedContext,
) -> None:
    """Recomputed and compiled as the settings say, with its weights, sharded, in training mode."""
    model_with_loss.train()
    layers = decoder_layers(language_model)
    checkpoint_activations(layers, settings.activation_checkpointing)
    if settings.compile:
        for layer in layers:
            layer.compile()
    distribute(model_with_loss, language_model, layers, weights, settings, ranks)


def open_shard_verifier(output: Path, ranks: DistributedContext) -> ShardVerifier:
    """What checks shards in this launch, for all ranks of a machine together. Called by all."""
    if ranks.is_main:
        remove_marks(output / VERIFIED_FOLDER)
    launch: str = ranks.gather(uuid.uuid4().hex)[0]
    return ShardVerifier(marks_folder(output / VERIFIED_FOLDER, launch))


def open_data(
    plan: RunPlan, ranks: DistributedContext, verifier: ShardVerifier, output: Path
) -> TrainingData:
    """This rank's share of a run's data, appended ones included."""
    settings, order, folder = plan.settings, plan.order, plan.base.folder
    assert folder is not None, "the first manifest was read from somewhere"
    held_out = order.num_validation_samples
    if settings.validation_samples:
        held_out = min(held_out, settings.validation_samples)
    for source, tokens in order.barren_sources().items() if ranks.is_main else ():
        log.warning(
            "source %s (%d tokens) makes no sample of %d tokens: its shards are shorter, or its "
            "weight is too small; nothing of it is trained on",
            source,
            tokens,
            settings.sequence_length,
        )

    def state(samples: int) -> str:
        if ranks.is_main:
            plan.save_manifests(output)
        return DataState.of(order, samples).to_json()

    def check_state(text: str) -> int:
        saved = DataState.from_json(text)
        saved.check_order(order)
        return saved.samples_consumed

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
        sources=order.sources,
        state=state,
        check_state=check_state,
    )


def build_model(
    settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[PreTrainedModel, RandomWeights]:
    """The model on the meta device, and where its fp32 weights come from: the seed, or a folder.

    device: where it will run, which decides about its attention. Raises ConfigError for an unknown
    key or architecture, DataError for an unreadable folder.
    """
    folder = Path(settings.model) if isinstance(settings.model, str) else None
    if folder is None:
        config = model_config(settings, tokenizer_values(settings, tokenizer))
    else:
        _check_folder(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    attention = choose_attention(
        settings.attn_implementation,
        config,
        device=device,
        dtype=resolve_precision(settings, device),
        separate_documents=settings.separate_documents,
    )
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    rows = language_model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise ConfigError(
            f"pretrain: the model has {rows} embeddings, but the packed data's tokenizer has "
            f"{len(tokenizer)} tokens; raise model.vocab_size or leave it out"
        )
    if folder is None:
        return language_model, RandomWeights(language_model, settings.seed)
    weights = FolderWeights(language_model, folder)
    if not weights.missing:
        return language_model, weights
    # Names of an older version of Transformers: only it knows how to turn them into today's.
    log.info("%s: weights have other names (%s), loaded as a whole", folder, weights.missing[0])
    loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=attention,
        local_files_only=True,
        trust_remote_code=False,
    )
    assert isinstance(loaded, PreTrainedModel)
    return loaded, RandomWeights(loaded, settings.seed)


def check_model(settings: PretrainSettings) -> None:
    """Refuse what `settings.model` says wrongly, without building it or reading the data.

    Raises ConfigError for an unknown architecture, key or value, DataError for a wrong folder.
    """
    check_attention(settings.attn_implementation)
    if isinstance(settings.model, str):
        _check_folder(Path(settings.model))
    else:
        model_config(settings, {})


def model_config(settings: PretrainSettings, from_tokenizer: Mapping[str, Any]) -> Any:
    """The Transformers config that `settings.model` describes.

    from_tokenizer: values for the fields that the settings leave out. Raises ConfigError.
    """
    assert isinstance(settings.model, dict)
    given = dict(settings.model)
    kind = given.pop("model_type", SteelConfig.model_type)
    try:
        known = set(AutoConfig.for_model(kind).to_dict())
    except ValueError as error:
        raise ConfigError(f"pretrain: model_type {kind!r} is unknown to Transformers") from error
    if unknown := sorted(given.keys() - known):
        raise ConfigError(f"pretrain: {kind} has no config field {unknown[0]!r} (in `model`)")
    defaults = {"max_position_embeddings": settings.sequence_length, **from_tokenizer}
    try:
        return AutoConfig.for_model(kind, **{**defaults, **given})
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"pretrain: model: {error}") from error


def tokenizer_values(
    settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Model config fields that follow from the packed data's tokenizer."""
    multiple = settings.vocab_multiple
    return {
        "vocab_size": math.ceil(len(tokenizer) / multiple) * multiple,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def decoder_layers(language_model: PreTrainedModel) -> list[nn.Module]:
    """The repeated blocks: what is sharded, recomputed and compiled as one."""
    names = set(language_model._no_split_modules or ())
    layers = [module for module in language_model.modules() if type(module).__name__ in names]
    if not layers:
        raise ConfigError(
            f"{type(language_model).__name__} does not name its decoder layers (_no_split_modules)"
        )
    return layers


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise DataError(
            f"pretrain: model = {str(folder)!r} is no folder of a Transformers model (it has no "
            "config.json)"
        )
