"""A pretraining, running, stopped or finished, and its checkpoints, held while they are read.

STORE/pretrain/KEY.partial/checkpoints/step-00000120/   retention may remove it at any moment
                    │ hard links, a few milliseconds, no bytes copied
                    ▼
…/held/step-00000120/                                   whole, until it is exported
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import DataError, shown
from common.files import PARTIAL, canonical_json, link_or_copy, remove_folder
from common.paths import display, resolve
from common.reading.files import read_json_object, read_text
from model.train.checkpoint.folders import MARKER, complete_checkpoints, read_marker
from model.train.checkpoint.progress import Progress
from model.train.run.folder import CHECKPOINTS_FOLDER, JOB_FILE, PROGRESS_FILE
from tasks.core.lock import is_held
from tasks.core.results.entries import entries
from tasks.core.results.names import matches

SHORTEST_KEY = 4
"""Characters of a key's beginning that name a run."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint, as it was seen."""

    path: Path
    """Its folder, which may be gone by now."""
    step: int
    """Completed optimizer steps."""
    batch: int
    """Global batches consumed, skipped ones included."""
    digest: str
    """Hash of the names, sizes and checksums of its files: another one of this step has another."""
    regular: bool
    """Written because the interval said so."""
    validation_loss: float | None
    """Measured at this step, nats per token."""


class PretrainingRun:
    """A pretraining in a store."""

    def __init__(self, finished_folder: Path) -> None:
        self.finished_folder = finished_folder
        self.key = finished_folder.name

    @classmethod
    def find(cls, store: Path, words: str) -> "PretrainingRun":
        """The pretraining of a folder (with or without .partial), or of words that mean it.

        Raises DataError where there is none, or where several begin so.
        """
        folder = store / "pretrain"
        for named in (resolve(words), folder / words):
            finished = named.with_name(named.name.removesuffix(PARTIAL))
            run = cls(finished)
            if finished.parent.name == "pretrain" and run.folder.is_dir():
                return run
        keys = {path.name.removesuffix(PARTIAL) for path in folder.glob("*") if path.is_dir()}
        found = sorted(k for k in keys if k.startswith(words) and len(words) >= SHORTEST_KEY)
        if len(found) == 1:
            return cls(folder / found[0])
        if len(found) > 1:
            raise DataError(f"{shown(words)} is the beginning of {', '.join(found[:5])}; give more")
        if standing := matches(store, words, entries(store, ("pretrain",))):
            return cls(standing[-1].folder.with_name(standing[-1].key))
        there = ", ".join(sorted(keys)[:8]) or "none"
        raise DataError(
            f"there is no pretraining {shown(words)}, neither at that path nor in "
            f"{display(folder)}, which has {there}"
        )

    @property
    def folder(self) -> Path:
        """Its folder at this moment: it gets another name when the run ends."""
        if self.finished:
            return self.finished_folder
        return self.finished_folder.with_name(f"{self.key}{PARTIAL}")

    @property
    def finished(self) -> bool:
        """True once it has ended, and has its last checkpoint."""
        return (self.finished_folder / "manifest.json").is_file()

    @property
    def running(self) -> bool:
        """True while a process trains."""
        return is_held(self.finished_folder.with_name(f"{self.key}.lock"))

    def job(self) -> dict[str, Any]:
        """Settings and places of the training, as its ranks have read them. Raises DataError."""
        job = read_json_object(self.folder / JOB_FILE)
        if not isinstance(job.get("settings"), dict) or not isinstance(job.get("packed"), str):
            raise DataError(f"{display(self.folder / JOB_FILE)} is damaged: it has no settings")
        return job

    def packed(self) -> Path:
        """Folder of the packed data that it began with. Raises DataError where they are gone."""
        given = resolve(self.job()["packed"])
        beside = self.finished_folder.parents[1] / "pack" / given.name  # of a store that was moved
        for place in (given, beside):
            if (place / "shards").is_dir():
                return place
        raise DataError(f"the packed data of this run are gone: {display(given)}")

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints that are there, oldest first."""
        found = []
        for path in complete_checkpoints(self.folder / CHECKPOINTS_FOLDER):
            with contextlib.suppress(DataError, FileNotFoundError):  # removed meanwhile
                found.append(read_checkpoint(path))
        return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Describe a complete checkpoint. Raises DataError where it is gone or damaged."""
    marker = read_marker(path)
    progress, _ = Progress.from_json(read_text(path / PROGRESS_FILE))
    listed = canonical_json([int(marker["step"]), marker["files"]])
    loss = marker.get("validation_loss")
    return Checkpoint(
        path=path,
        step=int(marker["step"]),
        batch=progress.batch,
        digest=hashlib.sha256(listed.encode()).hexdigest()[:16],
        regular=bool(marker.get("regular")),
        validation_loss=loss if isinstance(loss, int | float) else None,
    )


def hold(checkpoint: Checkpoint, folder: Path) -> Path | None:
    """Keep a checkpoint's files under names of our own, below `folder`; None where it is gone.

    What has been removed in part, or replaced by another one of its step, counts as gone. Where
    the file system has no hard links the files are copied.
    """
    target = folder / checkpoint.path.name
    remove_folder(target)
    try:
        names = [*read_marker(checkpoint.path)["files"], MARKER]
        for name in names:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(checkpoint.path / name, place)
        held = read_checkpoint(target)
    except (FileNotFoundError, DataError):
        held = None
    if held is None or held.digest != checkpoint.digest:
        remove_folder(target)
        return None
    return target
