"""One run of the pipeline: its configuration, checks, tracker and summary.

with session(config, store, overrides) as run:   # loads, checks, opens the MLflow parent run
    run.make("pretrain")                        # runs missing stages, skips finished ones
    return run.summary()                        # closes the run and shows the table of results
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from common.paths import display, resolve
from common.provenance import git_commit
from common.redaction import hidden_in_errors, redacted
from flows.checks.contradictions import cautions
from flows.config import PipelineConfig
from flows.graph import TARGETS, Pipeline
from flows.preflight import preflight_once
from flows.runs.first_look import given
from flows.runs.pages import show_pages
from flows.runs.prefect_run import watchdog
from flows.targets import Target
from tasks.core.artifacts import publish_artifact, run_logger, shorten_user_errors
from tasks.core.markdown import markdown_table
from tasks.core.stage import Context, StageResult, plain
from tasks.core.tracking import default_uri
from tasks.report import result_table


@dataclass
class Session:
    """A pipeline that is running."""

    pipeline: Pipeline
    config: PipelineConfig
    context: Context

    @property
    def last(self) -> Target:
        """The target of a whole run: the report, or the data of a configuration of data alone."""
        return self.config.last_target

    def make(self, target: Target) -> None:
        """Make one of the pipeline's targets and whatever it needs."""
        self.pipeline.prepare(target)
        getattr(self.pipeline, TARGETS[target])

    def summary(self) -> dict[str, Any]:
        """Stages, their folders and the scores; the scores also become a Prefect artifact."""
        made = {
            name: value
            for name, value in vars(self.pipeline).items()
            if isinstance(value, StageResult)
        }
        evaluations: dict[str, StageResult] = vars(self.pipeline).get("evaluations", {})
        rows = result_table(evaluations) if evaluations else []
        if rows:
            self.context.tracker.describe_results(markdown_table(rows), self._pictures())
        if rows and flow_run.id:
            publish_artifact(
                run_logger(), "table", key="results", table=rows, description="Accuracy by model"
            )
        return {
            "name": self.config.name,
            "store": str(self.context.store),
            "stages": self.context.tracker.stages,
            "folders": {name: str(result.folder) for name, result in made.items()},
            "results": rows,
            "views": self.context.tracker.models.views,
        }

    def _pictures(self) -> list[Path]:
        """The report's picture of accuracies, where the report was made."""
        report = vars(self.pipeline).get("report")
        picture = report.folder / "figures" / "accuracy.png" if report is not None else None
        return [picture] if picture is not None and picture.is_file() else []


@contextmanager
def session(
    config: str, store: str, overrides: list[str], changes: Mapping[str, Any] | None = None
) -> Iterator[Session]:
    """Load and check a configuration, then open its MLflow run for the length of the block.

    Args:
        config: a file of `deployments/`.
        store: folder of all results.
        overrides: `section.key=value` changes.
        changes: further changes by key; None values are left out.

    Raises:
        ConfigError, DataError: before any work has started.
    """
    shorten_user_errors()
    place = resolve(store)
    overrides = given(overrides)
    with hidden_in_errors():
        loaded = preflight_once(config, [*overrides, *_overrides(changes or {})], place)
        recorded = redacted({"file": display(resolve(config)), **plain(loaded)})
    for caution in cautions(loaded):
        run_logger().warning("%s", caution)
    with tracked(loaded.name, place, recorded) as context:
        context = replace(context, when_busy=loaded.devices.when_busy)
        yield Session(pipeline=Pipeline(loaded, context), config=loaded, context=context)


@contextmanager
def tracked(name: str, store: Path, config: Mapping[str, Any]) -> Iterator[Context]:
    """A store, and an MLflow run that is open for the length of the block.

    Args:
        name: of the run.
        store: folder of all results; made if it is not there.
        config: recorded with the run.
    """
    from tasks.core.tracking import Tracker  # imports MLflow: after all checks

    store.mkdir(parents=True, exist_ok=True)
    tell, uri = watchdog().tell, default_uri(store)
    tell(watch="tracker", uri=uri, open=True)
    tracker = Tracker(
        store=store,
        pipeline=name,
        pipeline_id=flow_run.id or uuid.uuid4().hex,
        flow_run_id=flow_run.id,
        config=config,
        git_commit=git_commit(),
    )
    try:
        with tracker.recorded():
            with hidden_in_errors():
                yield Context(store=store, tracker=tracker)
            if tracker.models.runs:  # the page that the artifact links to
                tracker.models.save_views()
                tracker.models.save_own_view()
            show_pages(name, store, tracker.stages, tracker.models.views)
    finally:
        tell(watch="tracker", uri=uri, open=False)


def _overrides(changes: Mapping[str, Any]) -> list[str]:
    # JSON is YAML: values keep their types.
    return [f"{key}={json.dumps(value)}" for key, value in changes.items() if value is not None]
