"""What every stage shares: key, folder, lock, manifest last, MLflow run, Prefect task.

    STORE/<stage>/<key>.lock/     held by the one process that works on the key (see _lock.py)
    STORE/<stage>/<key>.partial/  where the stage writes; an interrupted run continues from it
    STORE/<stage>/<key>/          published by one rename; manifest.json inside is written last

The key is a hash of everything the result depends on: the stage's name and version, its config, the
keys of its inputs, the content of the recipes it uses, and what its config says about outside files
(`fingerprint`). A stage whose folder exists is skipped.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from model.errors import DataError, StageError
from tasks._lock import StageLock
from tasks._recipes import ROOT, display
from tasks._tracking import StageTrack, Tracker

SCHEMA_VERSION = 1
"""Of manifest.json. A reader refuses a version it does not know."""

LIBRARIES = (
    "torch", "transformers", "py-data-juicer", "datasets", "trl", "lm-eval", "prefect", "mlflow",
)  # fmt: skip
"""Whose versions a manifest records."""

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"


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
    """Whether it stood finished in the store already."""

    @classmethod
    def read(cls, folder: Path, *, reused: bool = True) -> "StageResult":
        """A published stage folder. Raises DataError when it isn't one."""
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise DataError(f"{display(folder)} is not a finished stage: {error}") from error
        if manifest.get("schema") != SCHEMA_VERSION:
            raise DataError(
                f"{display(path)} has schema {manifest.get('schema')!r}; this version of Steel "
                f"reads {SCHEMA_VERSION}. Remove the folder to make it anew."
            )
        return cls(
            stage=manifest["stage"],
            key=manifest["key"],
            folder=folder,
            manifest=manifest,
            reused=reused,
        )


StageInput: TypeAlias = "StageResult | Mapping[str, StageResult] | None"


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the runs of one pipeline share."""

    store: Path
    """Folder of all stage folders."""
    tracker: Tracker
    """Where runs are recorded."""


@dataclass(kw_only=True)
class StageRun:
    """What a stage's function is given to work with."""

    stage: str
    """Name of the stage."""
    key: str
    """Hash of everything the result depends on."""
    folder: Path
    """Write everything here. May hold what an interrupted attempt has left: continue from it."""
    log: Logger
    """Goes to the console and to Prefect."""
    track: StageTrack
    """The MLflow run of this stage."""
    counts: dict[str, float] = field(default_factory=dict)
    """Numbers for the manifest and for MLflow."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Whatever else the manifest should say; JSON values."""
    _progress: "_Progress | None" = None

    @property
    def scratch(self) -> Path:
        """Working files: kept across interruptions, removed before publication."""
        path = self.folder / ".scratch"
        path.mkdir(exist_ok=True)
        return path

    def count(self, **numbers: float) -> None:
        """Record numbers: into the manifest's `counts` and the stage's MLflow run."""
        self.counts.update(numbers)

    def note(self, **values: Any) -> None:
        """Record JSON values in the manifest's `notes`."""
        self.notes.update(values)

    def progress(self, done: float, total: float, what: str = "") -> None:
        """Say how far the stage is. Call it as often as you like: it is throttled here."""
        if self._progress is None:
            self._progress = _Progress(self.stage, self.log)
        self._progress.update(done, total, what)

    def table(self, name: str, rows: list[dict[str, Any]], description: str = "") -> None:
        """Show rows as a Prefect table artifact and keep them as an MLflow table."""
        _publish(self.log, create_table_artifact, key=_slug(name), table=rows,
                 description=description)  # fmt: skip
        self.track.table(f"{name}.json", rows)

    def markdown(self, name: str, text: str) -> None:
        """Show text as a Prefect artifact and keep it in MLflow."""
        _publish(self.log, create_markdown_artifact, key=_slug(name), markdown=text)
        self.track.text(f"{name}.md", text)


class Recipes(Protocol):
    """A config that depends on files: their content enters the stage's key."""

    def recipe_files(self) -> list[Path]:
        """The recipe files this config uses."""


def stage(
    *, version: int, trains: bool = False
) -> Callable[[Callable[..., None]], Callable[..., StageResult]]:
    """Make a stage of a function `fn(run, config, **inputs)`.

    Args:
        version: raise it when the same inputs give another output: finished folders are redone.
        trains: its metrics go, step by step, into a flat MLflow run beside those of other models.

    The result is called as `fn(config, context=…, label=…, **inputs)`: it returns the finished
    stage, from the store if it is there. `label` tells several runs of one stage apart.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., StageResult]:
        name = function.__name__

        def work(
            config: Any, *, context: Context, label: str = "", **inputs: StageInput
        ) -> StageResult:
            key = stage_key(name, version, config, inputs)
            folder = context.store / name / key
            log = _logger()
            title = f"{name} {label}".strip()
            if (folder / "manifest.json").is_file():
                log.info("%s: finished before, skipped (%s)", title, display(folder))
                result = StageResult.read(folder)
                context.tracker.reused(title, key, result.manifest)
                return result
            folder.parent.mkdir(parents=True, exist_ok=True)
            with StageLock(folder.with_suffix(".lock"), what=title):
                if (folder / "manifest.json").is_file():  # finished while we waited for the lock
                    return StageResult.read(folder)
                partial = folder.with_suffix(".partial")
                log.info("%s: %s", title, "continues" if partial.exists() else "starts")
                partial.mkdir(exist_ok=True)
                with context.tracker.stage(
                    name, label=label, key=key, folder=partial, config=plain(config),
                    inputs=_input_keys(inputs), trains=trains,
                ) as track:  # fmt: skip
                    run = StageRun(stage=title, key=key, folder=partial, log=log, track=track)
                    started = time.time()
                    function(run, config, **inputs)
                    run.count(seconds=round(time.time() - started, 3))
                    track.counts(run.counts)
                    manifest = _manifest(name, version, label, run, config, inputs, started)
                    publish(partial, folder, manifest)
                    track.manifest(manifest)
            log.info("%s: done in %.0f s", title, run.counts["seconds"])
            return StageResult.read(folder, reused=False)

        # Not functools.wraps: Prefect binds parameters by the signature that it would forward.
        work.__doc__ = function.__doc__
        # No Prefect caching: its key would know only this function's own source and parameters.
        as_task = task(
            name=name, task_run_name=_task_run_name, cache_policy=NO_CACHE, persist_result=False
        )(work)

        @functools.wraps(function)
        def call(config: Any, *, context: Context, **kwargs: Any) -> StageResult:
            result: StageResult = as_task(config, context=context, **kwargs)
            return result

        return call

    return decorate


def stage_key(name: str, version: int, config: Any, inputs: Mapping[str, StageInput]) -> str:
    """16 hexadecimal digits that change when anything the result depends on changes."""
    recipe_files: list[Path] = getattr(config, "recipe_files", list)()
    material = {
        "stage": name,
        "version": version,
        "config": plain(config),
        "inputs": _input_keys(inputs),
        "recipes": {
            display(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in recipe_files
        },
        "outside": getattr(config, "fingerprint", lambda: None)(),
    }
    text = json.dumps(material, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """A config as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def publish(partial: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Make a finished stage visible: files, then the manifest, then one rename; all fsynced."""
    shutil.rmtree(partial / ".scratch", ignore_errors=True)
    manifest["files"] = [_file_entry(path, partial) for path in _files(partial)]
    write_json(partial / "manifest.json", manifest)
    for path in (p for p in partial.rglob("*") if p.is_dir()):
        _fsync(path)
    _fsync(partial)
    partial.replace(folder)
    _fsync(folder.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either absent, old, or complete."""
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _file_entry(path: Path, folder: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
        os.fsync(file.fileno())
    return {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "md5": digest}


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _input_keys(inputs: Mapping[str, StageInput]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in sorted(inputs.items()):
        if isinstance(value, Mapping):
            keys[name] = {label: result.key for label, result in sorted(value.items())}
        else:
            keys[name] = value.key if value is not None else None
    return keys


def _manifest(
    name: str, version: int, label: str, run: StageRun, config: Any,
    inputs: Mapping[str, StageInput], started: float,
) -> dict[str, Any]:  # fmt: skip
    return {
        "schema": SCHEMA_VERSION,
        "stage": name,
        "label": label,
        "key": run.key,
        "stage_version": version,
        "config": plain(config),
        "inputs": _input_keys(inputs),
        "counts": run.counts,
        "notes": run.notes,
        "started": round(started, 3),
        "finished": round(time.time(), 3),
        "software": software_versions(),
        "git_commit": git_commit(),
        "prefect_flow_run": flow_run.id,
        "mlflow": run.track.identity(),
    }


@functools.cache
def software_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape results."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions


@functools.cache
def git_commit() -> str | None:
    """The project's commit, with `+` when the work tree differs from it; None outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if status.strip() else "")


def _task_run_name() -> str:
    from prefect.runtime import task_run

    parameters = task_run.parameters or {}
    return f"{task_run.task_name} {parameters.get('label', '')}".strip()


def _logger() -> Logger:
    """Prefect's logger inside a flow run, ours outside (tests, scripts)."""
    return get_run_logger() if flow_run.id else logging.getLogger("steel")


def _slug(name: str) -> str:
    """Prefect's artifact keys are lowercase letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _publish(log: Logger, create: Callable[..., Any], **kwargs: Any) -> Any:
    """Create a Prefect artifact; a server that cannot take it never stops a stage."""
    if not flow_run.id:
        return None
    try:
        return create(**kwargs)
    except Exception as error:
        log.warning("Prefect did not take the artifact %s: %s", kwargs.get("key"), error)
        return None


class _Progress:
    """One log line every `LINE_SECONDS`, one artifact update every `ARTIFACT_SECONDS`."""

    LINE_SECONDS = 10.0
    ARTIFACT_SECONDS = 5.0

    def __init__(self, stage: str, log: Logger) -> None:
        self.stage, self.log = stage, log
        self.started = self.last_line = self.last_artifact = time.monotonic()
        self.first: float | None = None
        self.artifact: Any = None

    def update(self, done: float, total: float, what: str) -> None:
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        fraction = min(1.0, done / total) if total > 0 else 0.0
        finished = fraction >= 1.0
        if now - self.last_line >= self.LINE_SECONDS:
            self.last_line = now
            left = ""
            if done > self.first:
                left = f", {(total - done) * (now - self.started) / (done - self.first):.0f} s left"
            self.log.info("%s: %.0f %%%s %s", self.stage, 100 * fraction, left, what)
        if now - self.last_artifact >= self.ARTIFACT_SECONDS or (finished and self.artifact):
            self.last_artifact = now
            percent = round(100 * fraction, 1)
            if self.artifact is None:
                self.artifact = _publish(
                    self.log, create_progress_artifact, key=_slug(f"{self.stage} progress"),
                    progress=percent, description=f"How far {self.stage} is",
                )  # fmt: skip
            else:
                _publish(self.log, update_progress_artifact, artifact_id=self.artifact,
                         progress=percent)  # fmt: skip


__all__ = ["Context", "StageError", "StageInput", "StageResult", "StageRun", "stage", "stage_key"]
