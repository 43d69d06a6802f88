"""Disk by stage, against what is free."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import SteelError
from flows.config import PipelineConfig
from flows.planning.corpora import Source
from model.cost.training import MOMENTS, Training, checkpoint_bytes
from tasks.core.manifest import StageResult
from tasks.core.plan import PlannedStage

LEDGER = 1.3
"""Bytes of the stage `clean` for each byte of kept text: with its ledger and what it dropped."""
WORKING = 3
"""Copies of the text that cleaning holds while it works, beside what it keeps."""
INDEX = 1.1
"""Bytes of shards for each byte of their tokens: with the places of documents."""
WIDE_IDS = 65_536
"""Vocabulary above which an id takes 4 bytes instead of 2."""
FP32 = 4


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """Bytes of one kind of files."""

    what: str
    """Stage, and which of its files."""
    bytes: float | None
    """Bytes; None: not known."""
    basis: str
    """`measured` or `estimated`."""
    lasting: bool = True
    """False for files that are gone once the stage is finished."""


def disk_of(
    config: PipelineConfig,
    stages: Sequence[PlannedStage],
    sources: Sequence[Source],
    training: Training | None,
) -> list[DiskUse]:
    """Disk of every stage of a whole run."""
    rows = []
    if config.corpora:
        rows += _data(stages, sources, training)
    weights = FP32 * training.parameters["total"] if training is not None else 0
    if training is not None and config.pretrain is not None:
        rows += _pretraining(config, stages, training, weights)
    tuned = [s.stage for s in stages if s.name in ("sft", "dpo")]
    if tuned and weights:
        rows += [
            _row(
                stages, ("sft", "dpo"), f"models of {len(tuned)} fine-tunings", weights * len(tuned)
            )
        ]
        three = 3 * (1 + MOMENTS) * weights
        rows += [_estimated("checkpoints of a fine-tuning", three, lasting=False)]
    return rows


def _data(
    stages: Sequence[PlannedStage], sources: Sequence[Source], training: Training | None
) -> list[DiskUse]:
    stored = _sum([s.stored_bytes for s in sources])
    text, kept = _sum([s.text_bytes for s in sources]), _sum([s.kept_bytes for s in sources])
    tokens = _sum([s.tokens for s in sources])
    vocabulary = training.vocabulary if training is not None else WIDE_IDS + 1
    id_bytes = 4 if vocabulary > WIDE_IDS else 2
    return [
        _row(stages, ("acquire",), "raw corpora", stored, ending="corpora"),
        _row(stages, ("normalize",), "normalized", text),
        _row(stages, ("clean",), "cleaned, with the ledger", _times(kept, LEDGER)),
        _estimated("cleaning, while it works", _times(text, WORKING), lasting=False),
        _row(stages, ("pack",), "token shards", _times(tokens, id_bytes * INDEX)),
    ]


def _pretraining(
    config: PipelineConfig, stages: Sequence[PlannedStage], training: Training, weights: float
) -> list[DiskUse]:
    assert config.pretrain is not None
    moments = training.moments
    saved = checkpoint_bytes(config.pretrain.settings, training.steps, weights, moments)
    one = (1 + moments) * weights
    rows = [
        *(_estimated(what, size) for what, size in saved.items() if size),
        _estimated("the last model", weights),
        _estimated("checkpoint that is being written", one, lasting=False),
    ]
    measured = _measured(stages, ("pretrain",))
    return (
        rows if measured is None else [DiskUse(what="pretrain", bytes=measured, basis="measured")]
    )


def _row(
    stages: Sequence[PlannedStage],
    names: tuple[str, ...],
    what: str,
    estimate: float | None,
    ending: str = "",
) -> DiskUse:
    measured = _measured(stages, names, ending)
    if measured is not None:
        return DiskUse(what=what, bytes=measured, basis="measured")
    return _estimated(what, estimate)


def _estimated(what: str, estimate: float | None, *, lasting: bool = True) -> DiskUse:
    basis = "no figure" if estimate is None else "estimated"
    return DiskUse(what=what, bytes=estimate, basis=basis, lasting=lasting)


def _measured(
    stages: Sequence[PlannedStage], names: tuple[str, ...], ending: str = ""
) -> float | None:
    """Bytes of finished stages; None unless all of these names are."""
    ours = [s for s in stages if s.name in names and s.stage.endswith(ending)]
    if not ours or any(stage.state != "finished" for stage in ours):
        return None
    with contextlib.suppress(SteelError):
        manifests = [StageResult.read(stage.folder).manifest for stage in ours]
        return float(sum(f["bytes"] for m in manifests for f in m.get("files", [])))
    return None


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
