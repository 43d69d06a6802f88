"""A published stage folder: its manifest, and how it becomes visible.

A folder is filled under another name; its files are fsynced, manifest.json (every file's size and
MD5, what it was made from and with) is written last, and one rename publishes the whole.
"""

import copy
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from common.config import NOT_IN_KEY as NOT_IN_KEY
from common.config import StageConfig, is_in_key
from common.errors import DataError, SteelError, shown
from common.files import md5_of_file, publish_folder, sync, write_json
from common.names import is_relative_path
from common.paths import display
from common.provenance import git_commit, software_versions
from common.reading.files import read_json_object
from common.redaction import recorded
from common.urls import redact
from model.train.run.folder import MODEL_FOLDER
from tasks.core.artifacts import flow_run_id

if TYPE_CHECKING:
    from tasks.core.stage import StageRun

BEGUN = ".scratch/begun.json"
"""File of a stage that is not finished: what its manifest will say of it. Not published."""

SCHEMA_VERSION = 1
"""Of manifest.json. A reader refuses a version it does not know."""


MANIFEST: Mapping[str, tuple[Any, Any]] = {
    "stage": (str, None),
    "key": (str, None),
    "label": (str, ""),
    "config": (dict, {}),
    "inputs": (dict, {}),
    "counts": (dict, {}),
    "notes": (dict, {}),
    "started": (int | float, 0.0),
    "finished": (int | float, 0.0),
}
"""Fields of manifest.json that readers rely on: their kinds, and values of absent ones."""


def _is_file_entry(entry: Mapping[str, Any]) -> bool:
    size = entry.get("bytes")
    return (
        is_relative_path(entry.get("path"))
        and isinstance(entry.get("md5"), str)
        and type(size) is int
        and size >= 0
    )


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """A finished stage: what the next ones take as input."""

    stage: str
    """Name of the stage."""
    key: str
    """Hash of everything the result depends on."""
    folder: Path
    """The published folder."""
    manifest: dict[str, Any]
    """The content of manifest.json."""
    reused: bool = False
    """True if it stood finished in the store already."""

    @property
    def model_folder(self) -> Path:
        """Transformers folder of the model, where the stage made one."""
        return self.folder / MODEL_FOLDER

    @property
    def identity(self) -> str:
        """The key, and what else came into the result while it was made (`notes.revision`: data
        appended to a training): what is made from it has other keys then."""
        revision = self.manifest.get("notes", {}).get("revision")
        return f"{self.key}+{revision}" if revision else self.key

    @classmethod
    def read(cls, folder: Path, *, reused: bool = True) -> "StageResult":
        """A published stage folder. Raises DataError when it isn't one."""
        path = folder / "manifest.json"
        try:
            manifest = read_json_object(path)
        except DataError as error:
            raise DataError(f"{display(folder)} is not a finished stage: {error}") from error
        if manifest.get("schema") != SCHEMA_VERSION:
            raise DataError(
                f"{display(path)} has schema {shown(manifest.get('schema'))}; this version of "
                f"Steel reads {SCHEMA_VERSION}. Remove the folder to make it anew."
            )
        for name, (kind, default) in MANIFEST.items():
            if not isinstance(manifest.setdefault(name, copy.copy(default)), kind):
                raise DataError(
                    f"{display(path)} is damaged: {name} = {shown(manifest.get(name))}. Restore "
                    "the file, or remove the folder to make it anew"
                )
        files = manifest.get("files", [])
        for entry in files if isinstance(files, list) else [files]:
            if not (isinstance(entry, dict) and _is_file_entry(entry)):
                raise DataError(f"{display(path)} is damaged: an entry of files is {shown(entry)}")
        return cls(
            stage=manifest["stage"],
            key=manifest["key"],
            folder=folder,
            manifest=manifest,
            reused=reused,
        )


READ_AGAIN = frozenset({"stage", "label", "key", "inputs", "files", "counts", "software", "mlflow"})
"""Fields of a manifest that a password like `pretrain` in the environment must not change."""

StageInput: TypeAlias = "StageResult | Mapping[str, StageResult] | None"


def plain(value: Any, *, key: bool = False) -> Any:
    """A config as JSON values, without the passwords and signatures in URLs; for a stage's key
    also without the fields that are not in it (common/config.py)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name), key=key)
            for f in dataclasses.fields(value)
            if not key or is_in_key(value, f)
        }
    if isinstance(value, Mapping):
        return {str(k): plain(v, key=key) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, key=key) for v in value]
    if isinstance(value, str):
        return redact(value)
    return str(value) if isinstance(value, Path) else value


def input_keys(inputs: Mapping[str, StageInput]) -> dict[str, Any]:
    """Keys of a stage's inputs, by name."""
    keys: dict[str, Any] = {}
    for name, value in sorted(inputs.items()):
        if isinstance(value, Mapping):
            keys[name] = {label: result.identity for label, result in sorted(value.items())}
        else:
            keys[name] = value.identity if value is not None else None
    return keys


def stage_key(
    name: str, version: int, config: StageConfig, inputs: Mapping[str, StageInput]
) -> str:
    """16 hexadecimal digits that change when anything the result depends on changes."""
    return key_of(stage_material(name, version, config, inputs))


def stage_material(
    name: str,
    version: int,
    config: StageConfig,
    inputs: Mapping[str, StageInput],
    *,
    absent: bool = False,
) -> dict[str, Any]:
    """Everything that a stage's result depends on, as JSON values.

    absent: True lets files outside be missing; the reason stands for their content then.
    """
    recipes = [*config.recipe_files(), *config.input_recipe_files(inputs)]
    try:
        outside = config.fingerprint()
    except (SteelError, OSError) as error:
        if not absent:
            raise
        outside = {"absent": str(error)}
    return {
        "stage": name,
        "version": version,
        "config": plain(config, key=True),
        "inputs": input_keys(inputs),
        "recipes": {
            display(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in recipes
        },
        "outside": outside,
    }


def key_of(material: Mapping[str, Any]) -> str:
    """The key that `stage_material` makes."""
    text = json.dumps(material, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SCRATCH = ".scratch"
"""Folder of working files in that of a stage; suffix of their place while it is published."""


def publish(
    partial: Path,
    folder: Path,
    manifest: dict[str, Any],
    *,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Make a finished stage visible: files, then the manifest, then one rename; all fsynced.

    check: raises an error when another process has taken the stage over; called before each step.

    Working files are removed when all is done: whoever goes on after a kill, at whatever moment,
    finds them (`reclaim`).
    """
    check()
    files = [path for path in _files(partial) if not path.is_relative_to(partial / SCRATCH)]
    manifest["files"] = [_file_entry(path, partial) for path in files]
    for path in files:  # what takes time comes before the last looks at the lock
        sync(path)
    check()
    # Names of files and of inputs hold no secrets, and are read again.
    write_json(partial / "manifest.json", recorded(manifest, as_they_are=READ_AGAIN))
    check()
    if (partial / SCRATCH).is_dir():
        shutil.rmtree(_set_aside(folder), ignore_errors=True)
        (partial / SCRATCH).rename(_set_aside(folder))
    publish_folder(partial, folder)
    tidy(folder)


def tidy(folder: Path) -> None:
    """Remove working files that a run left that was killed when its stage was finished."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Place of a stage's working files while it is published."""
    return folder.with_suffix(SCRATCH)


def reclaim(partial: Path, folder: Path) -> None:
    """Make what an earlier owner of the stage has left one's own, before going on with it.

    It may have been stopped just before its last rename: without the manifest that it wrote, that
    publishes nothing, and what it took away from its successor is put back here.
    """
    if folder.is_dir() and not (folder / "manifest.json").is_file() and not partial.exists():
        folder.rename(partial)
    if _set_aside(folder).is_dir() and partial.is_dir() and not (partial / SCRATCH).exists():
        _set_aside(folder).rename(partial / SCRATCH)
    (partial / "manifest.json").unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _file_entry(path: Path, folder: Path) -> dict[str, Any]:
    return {
        "path": str(path.relative_to(folder)),
        "bytes": path.stat().st_size,
        "md5": md5_of_file(path),
    }


def manifest_of(
    name: str,
    version: int,
    label: str,
    run: "StageRun",
    config: StageConfig,
    inputs: Mapping[str, StageInput],
    started: float,
) -> dict[str, Any]:
    """The manifest of a stage whose function has returned; `publish` adds its files."""
    return {
        "schema": SCHEMA_VERSION,
        "stage": name,
        "label": label,
        "key": run.key,
        "stage_version": version,
        "config": plain(config),
        "inputs": input_keys(inputs),
        "counts": run.counts,
        "notes": run.notes,
        "started": round(started, 3),
        "finished": round(time.time(), 3),
        "software": software_versions(),
        "git_commit": git_commit(),
        "prefect_flow_run": flow_run_id(),
        "mlflow": run.track.identity(),
    }
