"""Batches with something wrong, in health.jsonl, the log and the metrics. Rank 0's callback."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.train.callbacks.callback import Callback
from model.train.health import describe
from model.train.run.lease import Lease
from model.train.run.metrics import JsonLines

if TYPE_CHECKING:
    from model.train.distributed.step_outcome import StepOutcome
    from model.train.trainer import Trainer

log = logging.getLogger(__name__)


class HealthLog(Callback):
    """Records each batch that was not finite or a spike."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.lines = JsonLines(path, lease)

    def state(self) -> dict[str, Any]:
        return {"position": self.lines.position()}

    def load_state(self, state: Mapping[str, Any], *, rollback: bool) -> None:
        if not rollback:  # a rollback stays on record
            self.lines.cut(state.get("position", 0))

    def on_anomaly(self, trainer: "Trainer", event: Mapping[str, Any]) -> None:
        self.lines.append(**event)
        log.warning("%s", describe(event))

    def metrics(self, trainer: "Trainer", outcome: "StepOutcome") -> dict[str, float]:
        measured: dict[str, float] = {}
        if outcome.verdict.z is not None:
            measured["health/loss_z"] = outcome.verdict.z
        if trainer.health.num_skipped:
            measured["health/skipped_batches"] = float(trainer.health.num_skipped)
        return measured

    def close(self) -> None:
        self.lines.close()
