"""Measurements in metrics.jsonl, which trackers mirror. Rank 0's callback."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.train.callbacks.callback import Callback
from model.train.run.lease import Lease
from model.train.run.metrics import JsonlSink

if TYPE_CHECKING:
    from model.train.trainer import Trainer


class MetricsFile(Callback):
    """Writes each line of measurements; each step is there once, also after resuming."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.sink = JsonlSink(path, lease)

    def state(self) -> dict[str, Any]:
        return {"position": self.sink.position()}

    def load_state(self, state: Mapping[str, Any], *, rollback: bool) -> None:
        self.sink.cut(state.get("position", 0))

    def on_metrics(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        self.sink.log(step, metrics)

    def close(self) -> None:
        self.sink.close()
