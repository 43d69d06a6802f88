"""A model by the words that a person has for it.

All names of tasks/core/results/names.py, of pretrain, sft and dpo; and a path: of a stage's folder,
a run's, a checkpoint's, or a Transformers folder.
"""

from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError, DataError, SteelError, shown
from common.paths import checked, display, resolve
from model.train.checkpoint.folders import MARKER, complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, MODEL_FOLDER
from tasks.core.results.entries import entries
from tasks.core.results.names import SHORTEST_KEY, known, matches

STAGES = ("pretrain", "sft", "dpo")
"""Stages whose result is a model, in their order."""

SCRATCH = ".scratch"
"""Folder of a stage that is not finished yet, for what it needs itself."""


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
    everything = entries(store, STAGES)
    finished = [entry for entry in everything if entry.state == "finished"]
    if found := matches(store, name, finished):
        newest = f", the newest of {len(found)}" if len(found) > 1 else ""
        return _model_in(found[-1].folder, checkpoint, f"{found[-1].words}{newest}")
    # One that is not finished is taken by its key alone.
    for entry in everything:
        stage, _, key = name.rpartition("/")
        begins = len(key) >= SHORTEST_KEY and entry.key.startswith(key)
        if entry.state != "finished" and begins and stage in ("", entry.stage):
            return _model_in(entry.folder, checkpoint, display(entry.folder))
    raise problem or ConfigError(f"there is no model {shown(name)}, {known(store, finished)}")


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
