"""The forecast of a whole pipeline: what `steel plan` prints, and its JSON (docs/plan.md)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.disk import free_bytes
from flows.config import PipelineConfig
from flows.graph import planned
from flows.planning.cautions import cautions_of
from flows.planning.changes import Change, changes
from flows.planning.corpora import Source, sources_of, trained_on
from flows.planning.disk import DiskUse, disk_of
from flows.planning.trainings import (
    Finetuning,
    cpu_ranks,
    finetunings_of,
    pretraining_of,
    vocabulary_of,
)
from model.cost.gpus import GPUS, Gpu
from model.cost.training import ASSUMED_MFU, Hours, Training, hours_on
from tasks.core.plan import PlannedStage
from tasks.core.store import newest_first
from tasks.pretrain.predicted import Speed, speed_of

SCHEMA = 1
"""Of the JSON. A field that is added leaves it; one that changes its meaning raises it."""
CLEANING = 2.5e6
"""Bytes a second that a core cleans with the recipes `curated` (docs/LOG.md)."""
PACKING = 25e6
"""Bytes a second that packing reads, all cores together (docs/LOG.md)."""
SHOWN = ("H200", "H100", "A100", "H800", "A800", "RTX 4090", "Ascend 910B")
"""GPUs of the table where none is named."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Everything that is known of a pipeline before it runs."""

    schema: int = SCHEMA
    """Version of these fields."""
    name: str
    """Name of the pipeline."""
    store: str
    """Folder that figures were looked for in."""
    sources: list[Source]
    """Tokens and epochs by corpus."""
    tokens_available: float | None
    """Tokens of all corpora, once."""
    vocabulary: str
    """Place that the number of rows of the embedding is from."""
    pretraining: Training | None
    """The pretraining; None for a configuration of data alone."""
    finetunings: list[Finetuning]
    """SFT and DPO."""
    mfu: float
    """Share of the peak that hours are computed with."""
    mfu_source: str
    """`measured: …`, `given`, or `assumed`."""
    gpus: list[Hours]
    """Hours, energy and cost of the pretraining by GPU."""
    cpu_hours: float | None
    """Hours on this machine's processor, at the speed of a run in the store; None: none was."""
    stages: list[dict[str, object]]
    """Every stage: `stage`, `key`, `state`, `hours` (None: not known) and their `basis`."""
    disk: list[DiskUse]
    """Bytes by stage."""
    free_bytes: int
    """Bytes that are free where the store is."""
    cautions: list[str]
    """Sentences about what will be regretted."""
    changes: list[Change] = field(default_factory=list)
    """Stages beside those of the other configuration, where one was given."""


def forecast_pipeline(
    config: PipelineConfig,
    store: Path,
    *,
    gpu: Gpu | None = None,
    count: int = 0,
    mfu: float | None = None,
    price: float | None = None,
    other: PipelineConfig | None = None,
) -> Forecast:
    """Forecast a whole run.

    Args:
        config: a configuration; its data need not be on this machine.
        store: where figures of finished stages are looked for.
        gpu: that hours are wanted for; None: a table of several.
        count: GPUs; 0: as many as the configuration has processes, 8 where it leaves that open.
        mfu: share of the peak; None: measured in the store, else assumed.
        price: US dollars of a GPU and hour; None: the table's.
        other: configuration that stands, whose results are used where keys are equal.

    Raises SteelError for a configuration whose keys cannot be known.
    """
    stages = planned(config, store, absent=True)
    sources = sources_of(config, stages, store)
    on_cpu = gpu is None and not count and _small(config)
    ranks = _ranks(config, count, on_cpu)
    training = pretraining_of(config, stages, sources, ranks=ranks, gpu=not on_cpu)
    sources = trained_on(config, sources, training.tokens if training and training.steps else None)
    tuned = finetunings_of(config, stages, training.flops_per_token if training else None)
    speed = speed_of(store)
    share, share_source = _share(mfu, speed)
    measured = share_source != "assumed"
    kinds = [gpu] if gpu is not None else [known for known in GPUS if known.name in SHOWN]
    rows = []
    if training is not None and training.steps:
        rows = [
            hours_on(training, kind, ranks, mfu=share, measured=measured, price=price)
            for kind in kinds
        ]
    cpu_hours = None
    if training is not None and training.steps and speed.flops_per_second:
        cpu_hours = training.flops / speed.flops_per_second / 3600
    disk = disk_of(config, stages, sources, training)
    free = free_bytes(store)
    known = [source.tokens for source in sources]
    total = None if any(t is None for t in known) or not known else sum(t or 0 for t in known)
    hours = _hours_by_stage(stages, store, sources, training, tuned, rows if gpu else [], cpu_hours)
    compared: list[Change] = []
    if other is not None:
        compared = [
            replace(change, hours=hours.get(change.stage, (None, ""))[0])
            for change in changes(stages, planned(other, store, absent=True))
        ]
    return Forecast(
        name=config.name,
        store=str(store),
        sources=sources,
        tokens_available=total,
        vocabulary=vocabulary_of(config, stages)[1] if training is not None else "",
        pretraining=training,
        finetunings=tuned,
        mfu=share,
        mfu_source=share_source,
        gpus=rows,
        cpu_hours=cpu_hours,
        stages=[
            {**stage.row, "hours": hours[stage.stage][0], "basis": hours[stage.stage][1]}
            for stage in stages
        ],
        disk=disk,
        free_bytes=free,
        cautions=cautions_of(
            config,
            sources=sources,
            training=training,
            disk=disk,
            free=free,
            gpus=rows,
            gpu=gpu.name if gpu is not None else "",
            tuned=tuned,
        ),
        changes=compared,
    )


def _small(config: PipelineConfig) -> bool:
    """True for a pretraining that leaves its processes open: it fits a CPU or any GPU."""
    return config.pretrain is None or config.pretrain.num_processes == "auto"


def _ranks(config: PipelineConfig, count: int, on_cpu: bool) -> int:
    if count:
        return count
    if config.pretrain is None:
        return 1
    asked, nodes = config.pretrain.num_processes, config.pretrain.nodes
    if isinstance(asked, int):
        return asked * (nodes if isinstance(nodes, int) else 1)
    return cpu_ranks(config) if on_cpu else config.pretrain.fitting_ranks(8)


def _share(given: float | None, speed: Speed) -> tuple[float, str]:
    if given is not None:
        return given, "given"
    if speed.mfu:
        return speed.mfu, f"measured: {speed.source}"
    return ASSUMED_MFU, "assumed"


def _hours_by_stage(
    stages: Sequence[PlannedStage],
    store: Path,
    sources: Sequence[Source],
    training: Training | None,
    tuned: Sequence[Finetuning],
    rows: Sequence[Hours],
    cpu_hours: float | None,
) -> dict[str, tuple[float | None, str]]:
    """Hours of each stage that making it takes, and where they are from."""
    by_stage: dict[str, tuple[float | None, str]] = {}
    flops = {tuning.stage: tuning.flops for tuning in tuned}
    a_flop = None
    if training is not None and training.flops:
        one = rows[0].hours if rows else cpu_hours
        a_flop = None if one is None else one / training.flops
    where = f"on {rows[0].count} x {rows[0].gpu}" if rows else "at the speed of a run in the store"
    cores = os.cpu_count() or 1
    text = sum(source.text_bytes or 0 for source in sources)
    kept = sum(source.kept_bytes or 0 for source in sources)
    for stage in stages:
        took = _seconds(stage, store)
        if stage.state == "finished" and took is not None:
            by_stage[stage.stage] = took / 3600, "measured"
        elif stage.name == "pretrain" and training is not None and a_flop is not None:
            by_stage[stage.stage] = training.flops * a_flop, where
        elif flops.get(stage.stage) is not None and a_flop is not None:
            by_stage[stage.stage] = (flops[stage.stage] or 0) * a_flop, where
        elif stage.name == "clean" and text:
            by_stage[stage.stage] = text / CLEANING / cores / 3600, f"on {cores} cores"
        elif stage.name == "pack" and kept:
            by_stage[stage.stage] = kept / PACKING / 3600, f"on {cores} cores"
        elif took is not None:
            by_stage[stage.stage] = took / 3600, "as long as the newest of its kind"
        else:
            by_stage[stage.stage] = None, "not known"
    return by_stage


def _seconds(stage: PlannedStage, store: Path) -> float | None:
    """Seconds that a stage took, or the newest one of its name and label in the store."""
    label = stage.stage.removeprefix(stage.name).strip()
    for result in newest_first(store, stage.name):
        same = result.key == stage.key or (
            stage.state != "finished" and result.manifest["label"] == label
        )
        if same and "seconds" in result.manifest["counts"]:
            return float(result.manifest["counts"]["seconds"])
    return None
