"""A model by the words that a person has for it: a path, a stage, a key, a label.

newest              the model that was finished last
sft                 the newest of a stage: pretrain, sft or dpo
sft/balanced        the newest of a stage with this label (the mixture's name)
balanced            the same of any stage
1f0c5a2b            a key, or its beginning
PATH                a stage's folder, a run's, a checkpoint's, or a Transformers folder
"""

from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError, DataError, SteelError, shown
from common.files import PARTIAL
from common.paths import checked, display, resolve
from model.train.checkpoint.folders import MARKER, complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, MODEL_FOLDER
from tasks.core.manifest import StageResult

STAGES = ("pretrain", "sft", "dpo")
"""Stages whose result is a model, in their order."""

SCRATCH = ".scratch"
"""Folder of a stage that is not finished yet, for what it needs itself."""

SHORTEST_KEY = 4
"""Characters of a key's beginning that name it."""


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model that was asked for."""

    place: Path
    """Checkpoint, or Transformers folder."""
    words: str
    """Words that say which it is."""


def find_model(store: Path, name: str, checkpoint: int | None = None) -> FoundModel:
    """Find the model that `name` means.

    checkpoint: the step of one of its checkpoints, in place of the finished model.

    Raises ConfigError where nothing or more than one thing has that name, DataError where what it
    names holds no model.
    """
    problem: SteelError | None = None
    for path in (checked(name), resolve(name)):  # from here, and from the project's root
        if path.exists():
            try:
                return _model_in(path, checkpoint, display(path))
            except SteelError as error:  # a folder that happens to be called like a stage
                problem = problem or error
    results = _results(resolve(store))
    found = [r for r in results if name in _names(r)] or _by_beginning(results, name)
    if found:
        result = found[-1]
        label = f", {result.manifest['label']}" if result.manifest["label"] else ""
        newest = f", the newest of {len(found)}" if len(found) > 1 else ""
        return _model_in(result.folder, checkpoint, f"{result.stage}/{result.key}{label}{newest}")
    if folders := _unfinished(resolve(store), name):
        return _model_in(folders[-1], checkpoint, display(folders[-1]))
    raise problem or ConfigError(f"there is no model {shown(name)}, {_known(store, results)}")


def _results(store: Path) -> list[StageResult]:
    """Finished models of a store, oldest first."""
    paths = [path for stage in STAGES for path in store.glob(f"{stage}/*/manifest.json")]
    finished = [p for p in paths if p.parent.suffix != PARTIAL]
    return [StageResult.read(p.parent) for p in sorted(finished, key=lambda p: p.stat().st_mtime)]


def _names(result: StageResult) -> set[str]:
    """All names of a finished model."""
    stage, key, label = result.stage, result.key, result.manifest["label"]
    return {"newest", stage, key, f"{stage}/{key}"} | (
        {label, f"{stage}/{label}"} if label else set()
    )


def _by_beginning(results: list[StageResult], name: str) -> list[StageResult]:
    """The model whose key begins so. Raises ConfigError for several."""
    stage, _, key = name.rpartition("/")
    if len(key) < SHORTEST_KEY:
        return []
    found = [r for r in results if stage in ("", r.stage) and r.key.startswith(key)]
    if len(found) > 1:
        names = ", ".join(f"{r.stage}/{r.key}" for r in found[:5])
        raise ConfigError(f"{shown(name)} is the beginning of several keys: {names}; give more")
    return found


def _unfinished(store: Path, name: str) -> list[Path]:
    """Folders of trainings that are not finished and whose key begins so, newest last."""
    stage, _, key = name.rpartition("/")
    if len(key) < SHORTEST_KEY or not key.isalnum() or stage not in ("", *STAGES):
        return []
    places = [store / stage] if stage else [store / known for known in STAGES]
    return sorted(path for place in places for path in place.glob(f"{key}*{PARTIAL}"))


def _known(store: Path, results: list[StageResult]) -> str:
    """Words for the models that a store has."""
    where = display(resolve(store))
    if not results:
        return f"neither as a path nor in {where}, which holds no finished one"
    names = [f"{r.stage}/{r.manifest['label'] or r.key}" for r in reversed(results)]
    return f"neither as a path nor in {where}, which has {', '.join(dict.fromkeys(names[:8]))}"


def _model_in(folder: Path, checkpoint: int | None, words: str) -> FoundModel:
    """The model in a folder, or its checkpoint."""
    if not folder.is_dir():
        raise DataError(f"{display(folder)} is a file: name the folder that holds the model")
    if checkpoint is not None:
        place = _checkpoint(folder, checkpoint)
        return FoundModel(place=place, words=f"{words}, checkpoint {checkpoint:,}")
    if (folder / MARKER).is_file():
        return FoundModel(place=folder, words=words)
    for place in (folder, folder / MODEL_FOLDER):
        if (place / "config.json").is_file():
            return FoundModel(place=place, words=words)
    if steps := _checkpoints(folder):
        step = max(steps)
        return FoundModel(place=steps[step], words=f"{words}, its newest checkpoint {step:,}")
    raise DataError(
        f"{display(folder)} holds no model: no config.json in it or in its {MODEL_FOLDER}/, and no "
        "complete checkpoint"
    )


def _checkpoint(folder: Path, step: int) -> Path:
    steps = _checkpoints(folder)
    if step not in steps:
        there = ", ".join(f"{n:,}" for n in sorted(steps)) or "none"
        raise ConfigError(
            f"{display(folder)} has no complete checkpoint of step {step:,}; it has {there}"
        )
    return steps[step]


def _checkpoints(folder: Path) -> dict[int, Path]:
    """Complete checkpoints of a run by step, in its folder, in checkpoints/, or in its scratch."""
    found: dict[int, Path] = {}
    scratch = folder / SCRATCH
    for place in (scratch, scratch / CHECKPOINTS_FOLDER, folder, folder / CHECKPOINTS_FOLDER):
        for path in complete_checkpoints(place):
            found[int(path.name.removeprefix("step-"))] = path
    return found
