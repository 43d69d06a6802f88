"""A growing metrics.jsonl, copied into an MLflow run."""

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_json
from tasks.core.tracking.client import BATCH, never_fail
from tasks.core.tracking.names import TOKENS, VALIDATION, VALIDATION_TOKENS, charted, is_counter

if TYPE_CHECKING:
    from mlflow.entities import Metric


class MetricMirror:
    """Copies metrics.jsonl into an MLflow run, from a thread, every few seconds.

    `incomplete` is True while the last attempt has failed.

    What was sent is remembered per metric (its highest step), because a resumed training cuts its
    file back to the checkpoint and writes the same steps again.

    Metrics have the names of names.py. A counter is held back while it is zero.
    """

    SECONDS = 5.0

    def __init__(self, client: Any, run_id: str, metrics: Path, *, state: Path) -> None:
        self.client, self.run_id, self.metrics, self.state = client, run_id, metrics, state
        self.sent: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self.sent = json.loads(state.read_text())
        self.incomplete = False
        self._position, self._last_line = 0, b""
        self._zeros: dict[str, list[Metric]] = {}
        self._tokens: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="metric-mirror")

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def stop(self) -> None:
        """Copy what is left and end."""
        self._stop.set()
        self._thread.join()
        self.copy()

    def _loop(self) -> None:
        while not self._stop.wait(self.SECONDS):
            self.copy()

    @never_fail
    def copy(self) -> None:
        """Send every complete line that was not sent before."""
        self.send()

    def send(self) -> None:
        """The same; raises what MLflow does."""
        from mlflow.entities import Metric

        new = self._new_lines()
        batch: list[Metric] = []
        sent, zeros = dict(self.sent), dict(self._zeros)
        for line in new.splitlines():
            record = json.loads(line)
            step, millis = int(record["step"]), int(record["time"] * 1000)
            for name, value in self._named(record["metrics"]).items():
                if step > sent.get(name, -1):
                    point = Metric(name, float(value), millis, step)
                    batch += _without_zeros(point, sent, zeros)
        for start in range(0, len(batch), BATCH):
            part = batch[start : start + BATCH]
            self.client.log_batch(self.run_id, metrics=part)
            # At once: should the next one fail, these are not sent again.
            self.sent = self.sent | {metric.key: metric.step for metric in part}
            write_json(self.state, self.sent)
        self._zeros = zeros
        if new:
            self._position += len(new)
            self._last_line = new.splitlines(keepends=True)[-1]
        self.incomplete = False

    def _named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """A line's metrics by their names in MLflow, with the tokens read before a validation."""
        self._tokens = metrics.get(TOKENS, self._tokens)
        named = charted(metrics)
        if VALIDATION in named and self._tokens is not None:
            named[VALIDATION_TOKENS] = self._tokens
        return named

    def _new_lines(self) -> bytes:
        """Whole lines since the last look: all of them when the file was cut back meanwhile, which
        shows in the line before the remembered position (each has its time)."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(self._position - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    self._position, self._last_line = 0, b""
                    file.seek(0)
                content = file.read()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]


def _without_zeros(
    metric: "Metric", sent: dict[str, int], zeros: dict[str, list["Metric"]]
) -> list["Metric"]:
    """The points to send: none of a counter that was always zero, else also what was held back.

    sent: highest step by name; zeros: what is held back, of which the first and the last are
    enough. Both are changed.
    """
    name = metric.key
    if is_counter(name) and not metric.value and name not in sent:
        zeros[name] = [*zeros.get(name, [])[:1], metric]
        return []
    sent[name] = metric.step
    held = zeros.pop(name, [])
    return [*(zero for zero in held if zero.step < metric.step), metric]
