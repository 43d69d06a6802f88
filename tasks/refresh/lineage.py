"""The stages that the data of a training came from: its first ones, and all that joined it.

RUN: packed, journal, requests ─▶ pack ─▶ cleaned ─▶ normalized ─▶ raw

Only inputs that a stage's own texts come from are followed. Texts that it was merely compared with
(`known`, `held_out`), or that gave a vocabulary its words (`extra_text`), are not in the training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import DataError
from common.paths import display
from model.train.run.client import RunClient
from model.train.run.requests import AppendRequest, PendingRequest
from tasks.core.manifest import StageResult
from tasks.core.results.entries import folders_by_key

TEXTS_FROM: Mapping[str, str] = {
    "pack": "cleaned",
    "new_texts": "cleaned",
    "clean": "normalized",
    "new_documents": "normalized",
    "hold_out": "normalized",
    "normalize": "raw",
}
"""Stage -> the input that its texts come from. `new_files` has none here: what it was chosen from
holds files that the training may not have."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Finished stages by name and key, the training's first data before those that joined it."""

    packed: StageResult
    """The data that it began with."""
    stages: Mapping[str, dict[str, StageResult]] = field(default_factory=dict)
    """Stage -> key -> result."""
    unknown: tuple[Path, ...] = ()
    """Folders of shards in the training that no stage made: their texts cannot be looked up."""

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


def lineage_of(
    client: RunClient, packed: Path, store: Path, waiting: Sequence[PendingRequest]
) -> Lineage:
    """Find the stages behind a training's data, requested ones included.

    Args:
        packed: folder of the data that it began with.
        waiting: requests that were there before the client read the journal: the trainer journals
            data first and removes their request then, so they are in one of the two.

    Raises DataError where data, or a stage that their texts came from, are gone.
    """
    begun = StageResult.read(packed)
    found: dict[str, dict[str, StageResult]] = {}
    folders = folders_by_key(store)
    unknown = []
    for folder in (packed, *_joined(client, waiting)):
        if (folder / "manifest.json").is_file():
            _walk(StageResult.read(folder), folders, found)
        elif folder.is_dir():
            unknown.append(folder)
        else:
            raise DataError(
                f"data of this training are gone: {display(folder)}. Nobody can tell what of the "
                "corpora is new"
            )
    return Lineage(packed=begun, stages=found, unknown=tuple(dict.fromkeys(unknown)))


def texts_of(packed: Path, store: Path) -> list[StageResult]:
    """The stages that packed data came from, themselves first. Raises DataError for lost ones."""
    found: dict[str, dict[str, StageResult]] = {}
    _walk(StageResult.read(packed), folders_by_key(store), found)
    return [result for of_stage in found.values() for result in of_stage.values()]


def _joined(client: RunClient, waiting: Sequence[PendingRequest]) -> Iterator[Path]:
    """Folders of the `pack` stages that joined the training, or are requested to."""
    for entry in client.plan.append_entries:
        folder = entry.data.manifest.folder
        if folder is not None:
            yield folder.parent
    for pending in (*waiting, *client.requests.pending()):
        if isinstance(pending.request, AppendRequest):
            yield Path(pending.request.folder).parent


def _walk(
    result: StageResult, folders: Mapping[str, Path], found: dict[str, dict[str, StageResult]]
) -> None:
    if result.stage == "acquire" and result.manifest["config"].get("kind") != "corpora":
        return  # benchmarks, and sets whose words the vocabulary covers
    of_stage = found.setdefault(result.stage, {})
    if result.key in of_stage:
        return
    of_stage[result.key] = result
    name = TEXTS_FROM.get(result.stage)
    if name is None:
        return
    key = result.manifest["inputs"][name]
    folder = folders.get(key.partition("+")[0])
    if folder is not None:
        _walk(StageResult.read(folder), folders, found)
    elif name != "raw":  # of files that are gone only the documents are looked at again
        raise DataError(
            f"the {name} texts ({key}) that {display(result.folder)} was made from are not in this "
            "store any more: documents that the training has, or that it holds out, would be "
            "appended as new ones. Append by hand: `steel append`"
        )
