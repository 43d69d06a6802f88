"""Stages that a run would make, without making any: their keys, and which stand finished.

A key follows from a configuration and the files at its locations alone, so it is known before any
work. `Context.plan` collects a row for each stage; the stage itself is not called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from common.config import StageConfig
from tasks.core.manifest import StageResult

if TYPE_CHECKING:
    from tasks.core.tracking import Tracker

State = Literal["finished", "continues", "to be made"]


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage as a run would find it."""

    stage: str
    """Name of the stage and, where it has one, its label."""
    key: str
    """Hash of everything the result depends on."""
    state: State
    """finished: it would be skipped; continues: begun before and interrupted."""
    name: str = ""
    """Name of the stage alone."""
    folder: Path = Path()
    """Its folder, where it stands or would stand."""
    material: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """JSON values that the key is a hash of."""
    config: StageConfig | None = field(default=None, repr=False)
    """Its settings."""

    @property
    def row(self) -> dict[str, str]:
        """Columns of a table."""
        return {"stage": self.stage, "key": self.key, "state": self.state}


@dataclass
class Plan:
    """The stages of a run, in the order in which it would come to them."""

    stages: list[PlannedStage] = field(default_factory=list)
    absent: bool = False
    """If true, files outside may be missing: a stage's key is then not that of a run."""

    def add(
        self,
        name: str,
        label: str,
        key: str,
        folder: Path,
        material: Mapping[str, Any] | None = None,
        config: StageConfig | None = None,
    ) -> StageResult:
        """Note a stage. Returns what stands for its result where it is not finished.

        material, config: what the key is made of; None for a result that is found by its key.
        """
        state: State = "continues" if folder.with_suffix(".partial").exists() else "to be made"
        finished = (folder / "manifest.json").is_file()
        self.stages.append(
            PlannedStage(
                stage=f"{name} {label}".strip(),
                key=key,
                state="finished" if finished else state,
                name=name,
                folder=folder,
                material=material or {},
                config=config,
            )
        )
        if finished:
            return StageResult.read(folder)
        manifest = {"stage": name, "key": key, "label": label, "counts": {}, "notes": {}}
        return StageResult(stage=name, key=key, folder=folder, manifest=manifest)


class _NoTracker:
    """Takes the place of a tracker where nothing is recorded."""

    def scores(self, model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
        """Record nothing."""

    def reused(self, title: str, key: str, manifest: Mapping[str, Any]) -> None:
        """Record nothing."""


def no_tracker() -> "Tracker":
    """A tracker for a run that is only planned."""
    return cast("Tracker", _NoTracker())
