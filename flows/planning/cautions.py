"""Sentences about what will be regretted, said before a month is spent."""

import contextlib
from collections.abc import Iterator, Sequence

from common.disk import format_bytes
from common.errors import SteelError
from flows.checks.contradictions import cautions as contradictions
from flows.config import PipelineConfig
from flows.planning.corpora import Source, available_tokens
from flows.planning.disk import DiskUse
from flows.planning.trainings import Finetuning
from model.architecture import SteelArchitecture
from model.cost.training import Hours, Training, own_architecture

MOST_EPOCHS = 4
"""Epochs up to which repeated text is about as good as new (Muennighoff et al. 2023, arXiv
2305.16264)."""
TILE = 64
"""Rows of the embedding that tensor cores like in multiples."""
LONG_WARMUP = 0.1
"""Share of a run above which a warm-up is unusual."""


def cautions_of(
    config: PipelineConfig,
    *,
    sources: Sequence[Source],
    training: Training | None,
    disk: Sequence[DiskUse],
    free: int,
    gpus: Sequence[Hours],
    gpu: str,
    tuned: Sequence[Finetuning],
) -> list[str]:
    """Sentences, the dearest first.

    gpu: name of the GPU that was asked for; empty for none.
    """
    found: list[str] = []
    if training is not None and config.pretrain is not None:
        found += _data_ends(config, sources, training)
        found += _memory(training, gpus, gpu)
        found += _batch(config, training)
        found += _schedule(config, training)
        found += _model(config, training)
        found += _epochs(sources)
        found += _finetuned(tuned, training)
    found += _disk(disk, free)
    return [*found, *contradictions(config)]


def _data_ends(
    config: PipelineConfig, sources: Sequence[Source], training: Training
) -> Iterator[str]:
    assert config.pretrain is not None
    available = available_tokens(config, sources)
    if not training.steps:
        yield "nothing says how many tokens there are, and `pretrain.steps` is 0: hours are unknown"
        return
    if available is None or not config.pretrain.steps or available >= training.tokens:
        return
    reached = available / training.tokens_per_step
    more = training.tokens / available * config.pretrain.epochs
    yield (
        f"the data end before the horizon: they give {short(available)} tokens, about "
        f"{reached:,.0f} of {training.steps:,} steps, and the pretraining is refused once they are "
        f"packed. Raise pretrain.epochs to {more:.1f} or more, add data, or lower pretrain.steps"
    )


def _memory(training: Training, gpus: Sequence[Hours], gpu: str) -> Iterator[str]:
    for row in gpus:
        if row.gpu == gpu and row.fits is False:
            needed = training.memory["total"] / 2**30
            largest = max(
                (part for part in training.memory if part != "total"),
                key=lambda part: training.memory[part],
            )
            yield (
                f"a GPU needs about {needed:,.0f} GiB, and a {row.gpu} has {row.memory_gib:g}; "
                f"most are {largest}: a smaller pretrain.micro_batch_size, "
                "pretrain.activation_checkpointing: selective, or more GPUs"
            )


def _batch(config: PipelineConfig, training: Training) -> Iterator[str]:
    assert config.pretrain is not None
    settings = config.pretrain
    together = settings.micro_batch_size * training.ranks
    if settings.global_batch_size % together:
        yield (
            f"pretrain.global_batch_size = {settings.global_batch_size} is no multiple of "
            f"micro_batch_size x ranks = {settings.micro_batch_size} x {training.ranks}: such a "
            "run is refused"
        )


def _schedule(config: PipelineConfig, training: Training) -> Iterator[str]:
    assert config.pretrain is not None
    settings = config.pretrain
    warmup, steps = settings.warmup_steps, training.steps
    if steps and warmup >= steps:
        yield f"pretrain.warmup_steps = {warmup:,} leaves none of the {steps:,} steps: refused"
    elif steps and warmup > LONG_WARMUP * steps:
        yield f"the warm-up of {warmup:,} steps is {100 * warmup / steps:.0f} % of the run"
    decay = settings.decay_fraction * steps
    if settings.schedule == "wsd" and steps and decay > steps - warmup:
        yield (
            f"the decay ({decay:,.0f} steps) is longer than what the warm-up leaves of the run "
            f"({steps - warmup:,}): lower pretrain.decay_fraction"
        )
    if steps and settings.checkpoints.interval > steps:
        yield (
            f"pretrain.checkpoints.interval = {settings.checkpoints.interval:,} is longer than the "
            f"run of {steps:,} steps: an interruption loses all of it"
        )


def _model(config: PipelineConfig, training: Training) -> Iterator[str]:
    assert config.pretrain is not None
    settings = config.pretrain.settings
    if training.vocabulary and training.vocabulary % TILE:
        yield (
            f"the vocabulary of {training.vocabulary:,} is no multiple of {TILE}: matrix products "
            "with the embedding are slower"
        )
    architecture: SteelArchitecture | None = None
    with contextlib.suppress(SteelError, OSError):
        architecture = own_architecture(settings, training.vocabulary or 1)
    if architecture is not None and settings.sequence_length > architecture.max_position_embeddings:
        yield (
            f"pretrain.sequence_length = {settings.sequence_length:,} is longer than the model's "
            f"{architecture.max_position_embeddings:,} positions (max_position_embeddings)"
        )
    if architecture is not None and architecture.leaks:
        yield (
            f"routing {architecture.routing} lets a position see later tokens (docs/FOOTGUNS.md): "
            "judge it by validation/causal_loss"
        )


def _epochs(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        if source.trained_epochs is not None and source.trained_epochs > MOST_EPOCHS:
            yield (
                f"{source.source} is repeated {source.trained_epochs:.1f} times; beyond "
                f"{MOST_EPOCHS} epochs repeated text teaches little (Muennighoff et al. 2023)"
            )


def _disk(disk: Sequence[DiskUse], free: int) -> Iterator[str]:
    needed = sum(row.bytes or 0 for row in disk if row.basis != "measured")
    if needed > free:
        largest = max(disk, key=lambda row: row.bytes or 0)
        yield (
            f"the disk is too small: about {format_bytes(needed)} are still to be written, and "
            f"{format_bytes(free)} are free; most is {largest.what} "
            f"({format_bytes(largest.bytes or 0)})"
        )


def _finetuned(tuned: Sequence[Finetuning], training: Training) -> Iterator[str]:
    for tuning in tuned:
        if training.steps and tuning.tokens is not None and tuning.tokens > training.tokens:
            yield (
                f"{tuning.stage} trains on {short(tuning.tokens)} tokens, more than the "
                f"pretraining's {short(training.tokens)}: lower its epochs, or take fewer samples"
            )


def short(number: float) -> str:
    """A count for people: `1.12 T`."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:,.0f}"
