"""The MLflow side of one stage."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.redaction import redact, redacted
from model.train.run.folder import METRICS_FILE, SESSIONS_FILE
from model.train.run.sessions import run_seconds
from tasks.core.tracking.client import log_metrics, never_fail
from tasks.core.tracking.machine import MACHINE_FILE, measured
from tasks.core.tracking.metric_mirror import MetricMirror
from tasks.core.tracking.parameters import MAX_TAG, log_parameters

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker

JOULES_A_KWH = 3.6e6


@dataclass(kw_only=True)
class StageTrack:
    """The MLflow side of one stage: its child run and, where it trains or measures, a flat run."""

    tracker: "Tracker"
    run_id: str | None = None
    model_run_id: str | None = None
    folder: Path
    trains: bool = False
    """True for a stage that makes a model."""
    incomplete: bool = False
    """True if MLflow lacks something that this stage had for it."""
    finished: bool = False
    """True once the stage's result stands in the store: whatever stops the run then."""
    metrics: str = ""
    """Path of the metrics file that was followed, below `folder`."""
    sent: dict[str, int] = field(default_factory=dict)
    """Highest step of each metric in that file which MLflow has."""

    @property
    def runs(self) -> list[str]:
        """Ids of its runs."""
        return [run_id for run_id in (self.run_id, self.model_run_id) if run_id]

    def identity(self) -> dict[str, str | None]:
        """Ids of the runs, for the manifest."""
        return {
            "tracking_uri": self.tracker.shown_uri,
            "stage_run": self.run_id,
            "model_run": self.model_run_id,
        }

    @never_fail
    def end(self, status: str) -> None:
        """End its runs."""
        for run_id in self.runs:
            self.tracker.client.set_terminated(run_id, status)

    @never_fail
    def counts(self, counts: Mapping[str, float]) -> None:
        """Numbers of the finished stage: a table of its run, and of a measurement of speed the
        metrics that are compared."""
        if self.run_id and counts:
            self.tracker.client.log_table(self.run_id, counts_table(counts), "counts.json")
        if self.model_run_id and not self.trains:
            log_metrics(self.tracker.client, self.model_run_id, speeds(counts))

    @never_fail
    def parameters(self, values: Mapping[str, Any]) -> None:
        """Values that became known while the stage ran, as parameters."""
        for run_id in self.runs:
            log_parameters(self.tracker.client, run_id, values)

    @never_fail
    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags `steel.<name>` of its runs, for facts that became known while the stage ran."""
        for run_id in self.runs:
            for name, value in tags.items():
                self.tracker.client.set_tag(run_id, f"steel.{name}", redact(value)[:MAX_TAG])

    @never_fail
    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Rows as an MLflow table artifact."""
        if self.run_id and rows:
            columns = redacted({key: [row.get(key) for row in rows] for key in rows[0]})
            self.tracker.client.log_table(self.run_id, columns, name)

    @never_fail
    def text(self, name: str, text: str) -> None:
        """Text as an artifact."""
        if self.run_id:
            self.tracker.client.log_text(self.run_id, redact(text), name)

    @never_fail
    def artifact(self, path: Path, into: str | None = None) -> None:
        """A file as an artifact."""
        if self.run_id:
            self.tracker.client.log_artifact(self.run_id, str(path), into)

    @never_fail
    def manifest(self, manifest: dict[str, Any]) -> None:
        """The manifest of the stage, which stands in the store now, and the models that it made."""
        self.finished = True
        if self.run_id:
            self.tracker.client.log_dict(self.run_id, redacted(manifest), "manifest.json")
        if self.model_run_id and self.trains:
            finish_model(self.tracker, self.model_run_id, self.folder.with_suffix(""), manifest)

    @contextlib.contextmanager
    def follow(self, metrics: Path) -> Iterator[None]:
        """Mirror a growing metrics.jsonl into MLflow while the block runs, and, of a training, the
        load of this machine."""
        run_id = self.model_run_id or self.run_id
        if metrics.is_relative_to(self.folder):
            self.metrics = str(metrics.relative_to(self.folder))
        if run_id is None:
            yield
            return
        scratch = self.folder / ".scratch"
        mirrors = [self._mirror(run_id, metrics, scratch / "mirror.json")]
        load: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.trains:
            machine = scratch / MACHINE_FILE
            mirrors.append(self._mirror(run_id, machine, scratch / "machine-mirror.json"))
            load = measured(machine)
        for mirror in mirrors:
            mirror.start()
        try:
            with load:
                yield
        finally:
            for mirror in mirrors:
                mirror.stop()
            self.sent = mirrors[0].sent
            self.incomplete = self.incomplete or any(mirror.incomplete for mirror in mirrors)

    def _mirror(self, run_id: str, metrics: Path, state: Path) -> MetricMirror:
        return MetricMirror(self.tracker.client, run_id, metrics, state=state)


def speeds(counts: Mapping[str, float]) -> dict[str, float]:
    """Numbers of a measurement of speed as metrics, without zeros."""
    return {f"speed/{name}": value for name, value in counts.items() if value}


def counts_table(counts: Mapping[str, float]) -> dict[str, list[Any]]:
    """Numbers of a stage as the columns of a table."""
    return {"count": list(counts), "value": list(counts.values())}


def finish_model(
    tracker: "Tracker", run_id: str, folder: Path, manifest: Mapping[str, Any]
) -> None:
    """Record what is known of a model once its training is finished: what it settled on, what it
    cost, its kept checkpoints. Does nothing twice.

    folder: of the stage, published. Raises what MLflow does.
    """
    client = tracker.client
    log_parameters(client, run_id, manifest.get("notes", {}).get("settled", {}))
    run = client.get_run(run_id)
    seconds = run_seconds(folder / SESSIONS_FILE, folder / METRICS_FILE)
    joules = manifest["counts"].get("energy_joules", 0)
    costs = {"cost/hours": seconds / 3600, "cost/kilowatt_hours": joules / JOULES_A_KWH}
    log_metrics(client, run_id, {n: v for n, v in costs.items() if v and n not in run.data.metrics})
    tracker.models.finished(run_id, folder, manifest)
