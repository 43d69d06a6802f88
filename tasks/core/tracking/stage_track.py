"""The MLflow side of one stage."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.redaction import redact, redacted
from tasks.core.tracking.client import log_metrics, never_fail
from tasks.core.tracking.metric_mirror import MetricMirror

if TYPE_CHECKING:
    from tasks.core.tracking.tracker import Tracker

MAX_TAG = 5000
"""Characters of a tag's value; MLflow refuses longer ones."""


@dataclass(kw_only=True)
class StageTrack:
    """The MLflow side of one stage: its child run and, where it trains or measures, a flat run."""

    tracker: "Tracker"
    run_id: str | None = None
    model_run_id: str | None = None
    folder: Path
    incomplete: bool = False
    """True if MLflow lacks something that this stage had for it."""
    metrics: str = ""
    """Path of the metrics file that was followed, below `folder`."""
    sent: dict[str, int] = field(default_factory=dict)
    """Highest step of each metric in that file which MLflow has."""

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
        for run_id in filter(None, (self.run_id, self.model_run_id)):
            self.tracker.client.set_terminated(run_id, status)

    @never_fail
    def counts(self, counts: Mapping[str, float]) -> None:
        """Numbers of the finished stage, as metrics of its run."""
        for run_id in filter(None, (self.run_id, self.model_run_id)):
            stage_counts = {f"stage/{name}": value for name, value in counts.items()}
            log_metrics(self.tracker.client, run_id, stage_counts)

    @never_fail
    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags `steel.<name>` of its runs, for facts that became known while the stage ran."""
        for run_id in filter(None, (self.run_id, self.model_run_id)):
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
        for run_id in filter(None, (self.run_id, self.model_run_id)):
            self.tracker.client.log_artifact(run_id, str(path), into)

    @never_fail
    def manifest(self, manifest: dict[str, Any]) -> None:
        """The stage's manifest as an artifact."""
        if self.run_id:
            self.tracker.client.log_dict(self.run_id, redacted(manifest), "manifest.json")

    @contextlib.contextmanager
    def follow(self, metrics: Path) -> Iterator[None]:
        """Mirror a growing metrics.jsonl into MLflow while the block runs."""
        run_id = self.model_run_id or self.run_id
        if metrics.is_relative_to(self.folder):
            self.metrics = str(metrics.relative_to(self.folder))
        if run_id is None:
            yield
            return
        mirror = MetricMirror(
            self.tracker.client, run_id, metrics, state=self.folder / ".scratch" / "mirror.json"
        )
        mirror.start()
        try:
            yield
        finally:
            mirror.stop()
            self.sent, self.incomplete = mirror.sent, self.incomplete or mirror.incomplete
