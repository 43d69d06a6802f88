"""Run a stage's own function in a folder, without Prefect and MLflow."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.core.tracking import StageTrack


@dataclass
class RecordingTrack:
    """Takes the place of the MLflow run: remembers what it was given."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def tags(self, tags: Mapping[str, str]) -> None:
        self.known.update(tags)

    def parameters(self, values: Mapping[str, Any]) -> None:
        self.known.update({name: str(value) for name, value in values.items()})

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.tables[name] = rows

    def text(self, name: str, text: str) -> None:
        self.artifacts.append(name)

    def artifact(self, path: Path, into: str | None = None) -> None:
        self.artifacts.append(path.name)

    @contextlib.contextmanager
    def follow(self, metrics: Path) -> Iterator[None]:
        yield


def stage_run(folder: Path) -> StageRun:
    """A run that writes into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    track = cast("StageTrack", RecordingTrack())
    return StageRun(
        stage="test", key="0" * 16, folder=folder, log=logging.getLogger("test"), track=track
    )


def run_stage(stage: Callable[..., Any], folder: Path, config: Any, **inputs: Any) -> StageRun:
    """Call the function that `@stage` wraps; what it leaves is in `folder`."""
    run = stage_run(folder)
    cast("Any", stage).__wrapped__(run, config, **inputs)
    return run


def result_of(run: StageRun) -> StageResult:
    """A finished run as the input of another stage."""
    manifest = {"counts": run.counts, "notes": run.notes}
    return StageResult(stage=run.stage, key=run.key, folder=run.folder, manifest=manifest)


def data_sets(result: StageResult) -> dict[str, StageResult]:
    """Each data set below a folder, as a stage that needs some of them takes them."""
    folders = (path for path in result.folder.iterdir() if path.is_dir())
    return {path.name: result for path in folders if not path.name.startswith(".")}
