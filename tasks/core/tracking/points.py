"""Points of curves, added to the run of a model that was made before: each once."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.core.tracking.client import never_fail

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class Point:
    """Metrics at one place of a curve."""

    at: int
    """Step in MLflow, such as the number of tokens read."""
    values: Mapping[str, float]
    """{metric: value}"""
    mark: tuple[str, float]
    """A metric and its value by which a point is known to be there; sent with the others."""


class PointsOfModel:
    """Sends points to the run of a model, which may have some of them already."""

    def __init__(self, tracker: "Tracker", key: str) -> None:
        """key: of the model's stage."""
        self.tracker, self.key = tracker, key
        self.incomplete = False
        """True if MLflow has no run of this model."""

    @never_fail
    def send(self, points: Iterable[Point]) -> None:
        """Record the points that the run lacks."""
        # Seconds that a command without a server need not wait.
        from mlflow.entities import Metric

        from tasks.core.tracking.unsent import model_run

        client = self.tracker.client
        run_id = model_run(self.tracker, self.key)
        if run_id is None:
            self.incomplete = True
            return
        there: dict[str, set[int]] = {}
        for point in points:
            name, value = point.mark
            if name not in there:
                there[name] = {metric.step for metric in client.get_metric_history(run_id, name)}
            if point.at in there[name]:
                continue
            now = int(time.time() * 1000)
            values = {**point.values, name: value}
            metrics = [Metric(k, v, now, point.at) for k, v in values.items()]
            client.log_batch(run_id, metrics=metrics)
            there[name].add(point.at)
