"""The stages that the data of a training came from: its first ones, and all that joined it.

RUN: packed, journal, requests ─▶ pack stages ─▶ their inputs, and theirs ─▶ acquire, normalize, …
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.paths import display
from model.train.run.client import RunClient
from model.train.run.requests import AppendRequest
from tasks.core.manifest import StageResult


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Finished stages by name and key, the training's first data before those that joined it."""

    packed: StageResult
    """The data that it began with."""
    stages: Mapping[str, dict[str, StageResult]] = field(default_factory=dict)
    """Stage -> key -> result."""

    def of(self, stage: str) -> dict[str, StageResult]:
        """The results of one stage, by key, in the order in which the training got them."""
        return self.stages.get(stage, {})

    def first(self, stage: str) -> StageResult:
        """The one that the training's first data came from. Raises DataError where it is gone."""
        for result in self.of(stage).values():
            return result
        raise DataError(
            f"the stage {stage} that {display(self.packed.folder)} was made from is not in this "
            "store any more, so that nobody can tell what of the corpora is new. Append by hand: "
            "`steel append`"
        )


def lineage_of(client: RunClient, packed: Path, store: Path) -> Lineage:
    """Find the stages behind a training's data, requested ones included.

    packed: folder of the data that it began with.

    Raises DataError where those are gone; other stages that are gone are left out.
    """
    begun = StageResult.read(packed)
    found: dict[str, dict[str, StageResult]] = {}
    folders = _folders(store)
    for folder in (packed, *_joined(client)):
        result = StageResult.read(folder) if (folder / "manifest.json").is_file() else None
        if result is not None:
            _walk(result, folders, found)
    return Lineage(packed=begun, stages=found)


def _joined(client: RunClient) -> Iterator[Path]:
    """Folders of the `pack` stages that joined the training, or are requested to."""
    for entry in client.plan.append_entries:
        folder = entry.data.manifest.folder
        if folder is not None:
            yield folder.parent
    for pending in client.requests.pending():
        if isinstance(pending.request, AppendRequest):
            yield Path(pending.request.folder).parent


def _folders(store: Path) -> dict[str, Path]:
    found = store.glob("*/*/manifest.json")
    return {path.parent.name: path.parent for path in found if path.parent.suffix != ".partial"}


def _walk(
    result: StageResult, folders: Mapping[str, Path], found: dict[str, dict[str, StageResult]]
) -> None:
    of_stage = found.setdefault(result.stage, {})
    if result.stage == "acquire" and result.manifest["config"].get("kind") != "corpora":
        return  # benchmarks, and sets whose words the vocabulary covers
    if result.key in of_stage:
        return
    of_stage[result.key] = result
    for key in _keys(result.manifest["inputs"]):
        folder = folders.get(key.partition("+")[0])
        if folder is not None:
            _walk(StageResult.read(folder), folders, found)


def _keys(inputs: Any) -> Iterator[str]:
    if isinstance(inputs, str):
        yield inputs
    elif isinstance(inputs, Mapping):
        for value in inputs.values():
            yield from _keys(value)
