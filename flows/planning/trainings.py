"""Forecasts of the pretraining and of every fine-tuning of a configuration."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import SteelError
from corpus.chats.recipes import Mixture, load_mixture, load_set
from corpus.sources.datasets import HUBS, SAMPLE_DATA, local_dataset
from flows.config import PipelineConfig
from flows.planning.corpora import Source, available_tokens
from flows.planning.sizes import SetSize, known_sizes
from model.cost.training import Training, forecast
from model.train.finetune.config import FinetuneSettings
from tasks.core.manifest import StageResult
from tasks.core.plan import PlannedStage
from tasks.pretrain import CPU_PROCESSES

WHOLE_VOCABULARY = 151_936
"""Rows of Qwen1.5's embedding (Table 1)."""
SAMPLE_TOKENS = 400
"""Tokens of a conversation, and of each answer of a pair, where none was counted: an assumption."""
DPO_PASSES = 4 / 3
"""FLOPs of DPO for each of its policy's: the reference's forward pass is a third of a step."""


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """Forecast of one SFT or DPO run."""

    stage: str
    """Name of the stage, with the mixture's."""
    samples: int | None
    """Conversations, or pairs; None: not known before the sets are read."""
    steps: int | None
    """Optimizer steps."""
    tokens: float | None
    """Tokens of all epochs."""
    flops: float | None
    """Of all tokens; of DPO with the reference's."""
    basis: str
    """`measured` or `estimated`, and from what."""


def vocabulary_of(config: PipelineConfig, stages: Sequence[PlannedStage]) -> tuple[int, str]:
    """Rows of the embedding, and where that is from."""
    assert config.pretrain is not None
    model = config.pretrain.model
    if isinstance(model, dict) and isinstance(model.get("vocab_size"), int):
        return int(model["vocab_size"]), "stated"
    if isinstance(model, str):
        return 0, "of the model that it starts from"
    multiple = config.pretrain.vocab_multiple
    for stage in stages:
        if stage.name == "pack" and stage.state == "finished":
            with contextlib.suppress(SteelError, KeyError):
                tokens = int(StageResult.read(stage.folder).manifest["counts"]["vocabulary"])
                return -(-tokens // multiple) * multiple, "measured: packed"
    if config.pack.prune:
        return WHOLE_VOCABULARY, "at most: it is pruned once the corpus is cleaned"
    return WHOLE_VOCABULARY, "Qwen1.5's"


def pretraining_of(
    config: PipelineConfig,
    stages: Sequence[PlannedStage],
    sources: Sequence[Source],
    *,
    ranks: int,
    gpu: bool,
) -> Training | None:
    """Forecast of the pretraining; None where there is none, or nothing says how many steps."""
    if config.pretrain is None or not config.pretrains:
        return None
    settings = config.pretrain.settings
    steps = settings.steps
    if not steps:
        available = available_tokens(config, sources)
        steps = int((available or 0) // (settings.global_batch_size * settings.sequence_length))
    vocabulary, _ = vocabulary_of(config, stages)
    return forecast(
        settings,
        vocabulary=vocabulary,
        steps=steps,
        ranks=ranks,
        ranks_per_node=min(ranks, 8),
        gpu=gpu,
    )


def cpu_ranks(config: PipelineConfig) -> int:
    """Processes that a pretraining has on a machine without a GPU."""
    assert config.pretrain is not None
    asked = config.pretrain.num_processes
    return asked if isinstance(asked, int) else config.pretrain.fitting_ranks(CPU_PROCESSES)


def finetunings_of(
    config: PipelineConfig, stages: Sequence[PlannedStage], flops_per_token: float | None
) -> list[Finetuning]:
    """Forecasts of every SFT and of DPO."""
    done = {stage.stage: stage for stage in stages if stage.state == "finished"}
    found = []
    for mixture in config.mixtures if config.sft is not None else ():
        samples = _sft_samples(mixture, config.sft_sets)
        name = f"sft {mixture}"
        found.append(
            _finetuning(name, config.sft_of(mixture), samples, 1, 1.0, done, flops_per_token)
        )
    if config.aligns and config.dpo is not None:
        sets = config.preference_sets
        rows = [_stated(name, sets) for name in config.dpo_of().sets]
        known = [row.rows for row in rows if row is not None]
        samples = sum(known) if len(known) == len(rows) else None
        found.append(_finetuning("dpo", config.dpo, samples, 2, DPO_PASSES, done, flops_per_token))
    return found


def _finetuning(
    stage: str,
    settings: FinetuneSettings,
    samples: int | None,
    sequences: int,
    passes: float,
    done: dict[str, PlannedStage],
    flops_per_token: float | None,
) -> Finetuning:
    """One fine-tuning; sequences: of a sample; passes: FLOPs for each of the model's own."""
    basis = "estimated: sizes as stated, 400 tokens an answer"
    if stage in done:
        with contextlib.suppress(SteelError):
            counts = StageResult.read(done[stage].folder).manifest["counts"]
            tokens, steps = counts.get("tokens"), counts.get("steps")
            taken = counts.get("conversations", counts.get("pairs"))
            if tokens and steps and taken:
                return Finetuning(
                    stage=stage,
                    samples=int(taken),
                    steps=int(steps),
                    tokens=tokens,
                    flops=None if flops_per_token is None else tokens * flops_per_token * passes,
                    basis="measured",
                )
    if samples is None and not settings.max_steps:
        return Finetuning(
            stage=stage,
            samples=None,
            steps=None,
            tokens=None,
            flops=None,
            basis="no figure: read once the run starts",
        )
    steps = settings.num_steps(samples or 0)
    length = min(SAMPLE_TOKENS, settings.max_length)
    tokens = steps * settings.global_batch_size * length * sequences
    if samples is not None and not settings.max_steps:
        tokens = round(samples * settings.epochs) * length * sequences
    return Finetuning(
        stage=stage,
        samples=samples,
        steps=steps,
        tokens=tokens,
        flops=None if flops_per_token is None else tokens * flops_per_token * passes,
        basis=basis,
    )


def _sft_samples(name: str, locations: Mapping[str, str]) -> int | None:
    """Conversations that a mixture draws by the stated sizes of its sets; None: one is unknown."""
    with contextlib.suppress(SteelError):
        mixture = load_mixture(name)
        return _drawn(mixture, locations)
    return None


def _stated(name: str, locations: Mapping[str, str]) -> SetSize | None:
    """Stated size of a set; None where none is, or the set is another than the stated one."""
    location = locations.get(name, "")
    own = location == SAMPLE_DATA or bool(location not in HUBS and local_dataset(location))
    return None if own else known_sizes().rows.get(name)


def _drawn(mixture: Mixture, locations: Mapping[str, str]) -> int | None:
    pooled: dict[str, float] = {}
    outside = {"zh": 0.0, "en": 0.0}
    large = 0
    for name, part in mixture.sets.items():
        if not part.fraction:
            continue
        size = _stated(name, locations)
        if size is None:
            continue  # the small sets of a few hundred rows
        large += 1
        language = load_set("sft", name).language
        chinese = size.chinese if size.chinese is not None else float(language == "zh")
        rows = {"zh": size.rows * chinese, "en": size.rows * (1 - chinese)}
        taken = {k: n for k, n in rows.items() if part.language in ("any", k)}
        total = sum(taken.values())
        drawn = total * part.fraction
        if part.limit is not None:
            drawn = min(drawn, part.limit)
        if part.pool:
            pooled[part.pool] = pooled.get(part.pool, 0.0) + drawn
        elif total:
            for key, count in taken.items():
                outside[key] += drawn * count / total
    if not large:
        return None
    limited = [
        min(pooled[n], pool.ratio * outside[pool.to])
        for n, pool in mixture.pools.items()
        if n in pooled
    ]
    return round(sum(outside.values()) + sum(limited))
