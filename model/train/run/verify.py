"""Verification of a data order: of packed shards, of a run, or of simulated data.

    packed shards ─┐
    a run's folder ┼─▶ OrderSubject ──Scenario──▶ model/data/verify ──▶ plain values
    a simulation  ─┘

A run's folder has its own settings: its job, its journal and its checkpoints.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.config import from_json
from common.errors import ConfigError
from common.paths import display
from model.data import DataState, PackedManifest, SampleOrder
from model.data.manifest import find_manifest
from model.data.verify.order import verify_order
from model.data.verify.simulated_data import simulated_manifest
from model.train.checkpoint.folders import complete_checkpoints, read_files
from model.train.checkpoint.progress import Progress
from model.train.config import PretrainJob
from model.train.run.folder import CHECKPOINTS_FOLDER, DATA_STATE_FILE, JOB_FILE, PROGRESS_FILE
from model.train.run.plan import RunPlan

RANKS = (1, 2, 4, 8)
"""World sizes that are tried where none are given."""

SEQUENCE_LENGTH = 2048
SMALLEST_BATCH = 8
SIMULATED_BATCH = 512
MAX_BATCH = 1_000_000
"""Samples of a step, all of which are held in memory."""
"""Of the paper, section 5."""


@dataclass(frozen=True, kw_only=True)
class OrderSettings:
    """Values that decide an order; None: the default."""

    sequence_length: int | None = None
    global_batch_size: int | None = None
    seed: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    validation_fraction: float | None = None
    """Of simulated data; packed ones say themselves what is held out."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Events of a run while its order is walked through."""

    ranks: Sequence[int] = ()
    """World size at the start and after each restart; none: 1, 2, 4 and 8 where they divide."""
    micro_batches: Sequence[int] = ()
    """Samples a forward pass, for each entry of `ranks`; none: a rank's whole share."""
    restarts: Sequence[int] = ()
    """Steps; none, but several world sizes: at even stretches."""
    appends: Sequence[tuple[Path | int, int]] = ()
    """(packed shards or a number of simulated blocks, step) in order of steps."""


@dataclass(frozen=True, kw_only=True)
class OrderSubject:
    """A data order to verify."""

    name: str
    manifest: PackedManifest
    order: dict[str, Any]
    """Keywords of SampleOrder but for the manifest."""
    global_batch_size: int
    micro_batch_size: int = 1
    run: dict[str, Any] | None = None
    """Position of a run: its newest checkpoint, samples consumed and skipped."""


def verify_subject(
    subject: OrderSubject, scenario: Scenario, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Prove an order; see model/data/verify/order.py for the properties.

    progress: called with (samples done, samples in all).

    Raises ConfigError when the scenario makes no sense, DataError when appended data are missing.
    """
    started = time.perf_counter()
    more = [(_appended(subject, data, step), step) for data, step in scenario.appends]
    ranks = list(scenario.ranks) or [
        n for n in RANKS if subject.global_batch_size % (n * subject.micro_batch_size) == 0
    ]
    report = verify_order(
        subject.manifest,
        **subject.order,
        global_batch_size=subject.global_batch_size,
        ranks=ranks,
        micro_batches=scenario.micro_batches,
        restarts=scenario.restarts or _stretches(subject, len(ranks)),
        more=more,
        progress=progress,
    )
    return {
        "subject": subject.name,
        "run": subject.run,
        "seconds": round(time.perf_counter() - started, 2),
        **report.to_dict(),
    }


def is_run(folder: Path) -> bool:
    """Return True if a pretraining has begun in a folder."""
    return (folder / JOB_FILE).is_file()


def packed_subject(data: Path, settings: OrderSettings, ranks: Sequence[int]) -> OrderSubject:
    """The order of packed shards.

    Raises DataError when there are none, ConfigError for a fraction other than that of the packing.
    """
    file = find_manifest(data)
    manifest = PackedManifest.read(file)
    if settings.validation_fraction not in (None, manifest.validation_fraction):
        raise ConfigError(
            f"--validation-fraction {settings.validation_fraction}: {display(file.parent)} was "
            f"packed with {manifest.validation_fraction}; leave the option out, or pack again with "
            "another pack.validation_fraction"
        )
    return _subject(display(file.parent), manifest, settings, ranks, SMALLEST_BATCH)


def simulated_subject(
    num_blocks: int, settings: OrderSettings, ranks: Sequence[int]
) -> OrderSubject:
    """The order of data on paper. Raises ConfigError."""
    length = settings.sequence_length or SEQUENCE_LENGTH
    manifest = simulated_manifest(
        num_blocks, sequence_length=length, validation_fraction=settings.validation_fraction or 0.0
    )
    return _subject(f"{num_blocks:,} simulated blocks", manifest, settings, ranks, SIMULATED_BATCH)


def run_subject(folder: Path) -> OrderSubject:
    """The order of a pretraining, as its job, journal and newest checkpoint have it.

    Raises DataError when a file is damaged, or the checkpoint belongs to another order.
    """
    job = from_json(PretrainJob, folder / JOB_FILE)
    base = PackedManifest.read(Path(job.packed) / "shards")
    order = RunPlan.read(folder, job.settings, base).order
    saved = complete_checkpoints(folder / CHECKPOINTS_FOLDER)
    run: dict[str, Any] = {"checkpoint": None, "samples_consumed": 0, "samples_skipped": 0}
    if saved:
        files = read_files(saved[-1], (DATA_STATE_FILE, PROGRESS_FILE))
        state = DataState.from_json(files[DATA_STATE_FILE])
        state.check_order(order)
        position, _ = Progress.from_json(files[PROGRESS_FILE])
        run = {
            "checkpoint": saved[-1].name,
            "samples_consumed": state.samples_consumed,
            "samples_skipped": (position.batch - position.step) * job.settings.global_batch_size,
        }
    return OrderSubject(
        name=f"pretraining {display(folder)}",
        manifest=base,
        order={
            "sequence_length": order.sequence_length,
            "seed": order.seed,
            "weights": order.weights,
            "appends": order.appends,
        },
        global_batch_size=job.settings.global_batch_size,
        micro_batch_size=job.settings.micro_batch_size,
        run=run,
    )


def _subject(
    name: str,
    manifest: PackedManifest,
    settings: OrderSettings,
    ranks: Sequence[int],
    smallest_batch: int,
) -> OrderSubject:
    together = math.lcm(*ranks) or 1
    batch = settings.global_batch_size or together * -(-smallest_batch // together)
    if batch > MAX_BATCH:
        raise ConfigError(
            f"a global batch of {batch:,} samples (of which ranks {list(ranks)[:8]} take equal "
            f"shares) is too large to verify; at most {MAX_BATCH:,}"
        )
    return OrderSubject(
        name=name,
        manifest=manifest,
        order={
            "sequence_length": settings.sequence_length or SEQUENCE_LENGTH,
            "seed": settings.seed or 0,
            "weights": settings.weights,
        },
        global_batch_size=batch,
    )


def _stretches(subject: OrderSubject, number: int) -> list[int]:
    """Steps that cut the run (without what the scenario appends) into even parts."""
    if number == 1:
        return []
    steps = SampleOrder(subject.manifest, **subject.order).num_samples // subject.global_batch_size
    return [steps * i // number for i in range(1, number)]


def _appended(subject: OrderSubject, data: Path | int, step: int) -> PackedManifest:
    if isinstance(data, Path):
        return PackedManifest.read(find_manifest(data))
    base, length = subject.manifest, subject.order["sequence_length"]
    return replace(
        simulated_manifest(
            data,
            sequence_length=length,
            name=f"simulated-at-{step}",
            validation_fraction=base.validation_fraction,
        ),
        vocab_size=base.vocab_size,
        end_of_document=base.end_of_document,
        tokenizer_digest=base.tokenizer_digest,
    )
