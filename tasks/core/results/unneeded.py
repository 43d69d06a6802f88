"""Stages and files that a store no longer needs, and their removal (`steel gc`).

    wanted      keys of the configurations
    newest      the last results that nothing else was made from
    in use      stages that run, and finished ones that a living process goes on from
       └── and all that these were made from ──▶ stay; the rest may go

Removal renames first: whatever interrupts it, a stage is there whole or not at all, and what is
left under `.old.partial` goes next time. docs/adr/0079
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import StageError, SteelError
from common.files import PARTIAL, remove_folder, write_json
from common.paths import resolve
from model.train.checkpoint.folders import complete_checkpoints, read_info
from model.train.checkpoint.retention import CheckpointSettings, kept_steps, permanent_steps
from model.train.run.folder import CHECKPOINTS_FOLDER
from tasks.core.lock import StageLock
from tasks.core.manifest import StageResult
from tasks.core.results.entries import KEY, Entry, entries, folder_bytes, links_of, with_inputs
from tasks.core.results.in_use import to_be_removed
from tasks.core.results.leftovers import leftovers, remove_leftover

Kind = Literal["stage", "model", "unfinished", "checkpoint", "cache", "leftover"]

MODELS = ("pretrain", "sft", "dpo")
"""Stages whose result is a model."""
FINDINGS = (
    *("report", "kernel_table", "throughput"),
    *("data_comparison", "mixture_comparison", "ffn_comparison"),
)
"""Stages whose result is small, and is what was found out: it stays."""
CACHE_DAYS = 7
"""Days without a reader after which an entry of the cache may go."""
UNFINISHED_DAYS = 1
"""Days without a change after which what an interrupted run has left may go."""
DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """Something that may go."""

    kind: Kind
    path: Path
    words: str
    """Name for a person."""
    reason: str
    num_bytes: int
    key: str = ""
    """Of a stage."""


def unneeded(
    store: Path,
    wanted: Collection[str],
    *,
    keep: int,
    models: bool = False,
    keep_checkpoints: int = 0,
) -> list[Unneeded]:
    """Everything in a store that may go, the largest first.

    Args:
        store: the store.
        wanted: keys that configurations name.
        keep: number of newest results, of those that nothing else was made from, that stay with all
            they were made from.
        models: finished models and trainings that were interrupted may go, too.
        keep_checkpoints: newest checkpoints of each training that is not running which stay; 0: all
            that the training's own settings keep.
    """
    store = resolve(store)
    everything = entries(store)
    stay = _staying(everything, {*wanted, *recorded_keys(store)}, keep)
    found = []
    for entry in everything:
        if entry.key in stay or entry.stage in FINDINGS or entry.state == "running":
            continue
        if _is_recent(entry) or (not models and entry.stage in MODELS):
            continue
        found.append(_unneeded_stage(entry))
    gone = {one.key for one in found}
    for entry in everything:
        if entry.stage in MODELS and entry.key not in gone and entry.state != "running":
            found += _checkpoints(entry, keep_checkpoints)
    if not any(entry.state == "running" for entry in everything):
        found += _cache(store)
    found += [
        Unneeded(kind="leftover", path=path, words=str(path), reason=why, num_bytes=size)
        for path, why, size in leftovers(store)
    ]
    return sorted(found, key=lambda one: -one.num_bytes)


def _staying(everything: list[Entry], wanted: Collection[str], keep: int) -> set[str]:
    """Keys of what stays."""
    links = links_of(everything)
    finished = [entry for entry in everything if entry.state == "finished"]
    used = {key for named in links.values() for key in named}
    ends = [entry for entry in finished if entry.key not in used]
    newest = ends[-keep:] if keep else []
    running = [entry for entry in everything if entry.state == "running"]
    in_use = [entry for entry in finished if is_in_use(entry)]
    start = {*wanted, *(entry.key for entry in (*newest, *running, *in_use))}
    return with_inputs(start, links)


def recorded_keys(store: Path) -> set[str]:
    """Keys that records beside the stages name: of corpora that are refreshed, for one."""
    paths = [path for path in store.glob("*/*.json") if path.parent.name != "cache"]
    return {key for path in paths for key in KEY.findall(path.read_text("utf-8"))}


def is_in_use(entry: Entry) -> bool:
    """True if a living process goes on from a finished stage."""
    with to_be_removed(entry.folder) as free:
        return not free


def _is_recent(entry: Entry) -> bool:
    """True for what was interrupted a moment ago, and may be about to go on."""
    return entry.state == "interrupted" and time.time() - entry.at < UNFINISHED_DAYS * DAY


def _unneeded_stage(entry: Entry) -> Unneeded:
    if entry.state == "interrupted":
        days = (time.time() - entry.at) / DAY
        kind: Kind = "unfinished"
        reason = f"interrupted {days:.0f} days ago; no configuration names it"
    else:
        kind = "model" if entry.stage in MODELS else "stage"
        reason = "needed by no configuration, and by nothing that stays"
    return Unneeded(
        kind=kind,
        path=entry.folder,
        words=entry.words,
        reason=reason,
        num_bytes=entry.num_bytes,
        key=entry.key,
    )


def _checkpoints(entry: Entry, keep: int) -> Iterator[Unneeded]:
    """Checkpoints of a training that its settings, or `keep`, do not keep."""
    config = entry.about.get("config", {})
    stated = config.get("checkpoints") if isinstance(config, dict) else None
    values = dict(stated) if isinstance(stated, dict) else {}
    if keep:
        values["keep_last"] = keep
    elif "keep_last" not in values:
        return  # unknown: all stay
    settings = CheckpointSettings(
        **{k: v for k, v in values.items() if k in CheckpointSettings.__dataclass_fields__}
    )
    for place in (
        entry.folder / CHECKPOINTS_FOLDER,
        entry.folder / ".scratch" / CHECKPOINTS_FOLDER,
        entry.folder / ".scratch",
    ):
        infos = {path: read_info(path) for path in complete_checkpoints(place)}
        stay = kept_steps(infos.values(), settings) | permanent_steps(infos.values(), settings)
        for path, info in infos.items():
            if info.step not in stay:
                yield Unneeded(
                    kind="checkpoint",
                    path=path,
                    words=f"{entry.words}, step {info.step:,}",
                    reason=f"older than the {settings.keep_last} newest",
                    num_bytes=folder_bytes(path),
                    key=entry.key,
                )


def _cache(store: Path) -> Iterator[Unneeded]:
    """Entries of the cache that nobody has read for a while."""
    for path in sorted((store / "cache").glob("*")):
        with contextlib.suppress(OSError):
            files = [path, *path.rglob("*")]
            last = max(max(p.stat().st_atime, p.stat().st_mtime) for p in files if p.is_file())
            days = (time.time() - last) / DAY
            if path.suffix != PARTIAL and days >= CACHE_DAYS:
                yield Unneeded(
                    kind="cache",
                    path=path,
                    words=f"cache/{path.name}",
                    reason=f"not read for {days:.0f} days; made again where it is needed",
                    num_bytes=folder_bytes(path),
                )


def remove(store: Path, one: Unneeded) -> bool:
    """Remove something; returns False where a process has come to use it since.

    Raises OSError where the disk does not let it go.
    """
    if not one.path.exists() and not one.path.is_symlink():
        return False
    if one.kind in ("cache", "leftover"):
        remove_leftover(one.path)
        return True
    final = one.path if one.kind != "checkpoint" else _stage_folder(one)
    lock = StageLock(final.with_name(f"{one.key}.lock"), what=one.words)
    try:
        with lock:
            if one.kind == "checkpoint":
                return _remove_checkpoint(final, one)
            if one.kind == "unfinished":
                remove_folder(one.path)
                return True
            with to_be_removed(one.path) as free:
                if free:
                    remove_folder(one.path)
                return free
    except StageError:
        return False  # it is being made, or trained on


def _stage_folder(one: Unneeded) -> Path:
    """The folder of the stage that a checkpoint belongs to."""
    return next(p for p in one.path.parents if p.name.removesuffix(PARTIAL) == one.key)


def _remove_checkpoint(folder: Path, one: Unneeded) -> bool:
    """Take a checkpoint out of the manifest of its training, where it has one, and remove it."""
    if (folder / "manifest.json").is_file():
        with to_be_removed(folder) as free:
            if not free:
                return False
        with contextlib.suppress(SteelError):
            manifest = StageResult.read(folder).manifest
            inside = f"{one.path.relative_to(folder)}/"
            files = [f for f in manifest.get("files", []) if not f["path"].startswith(inside)]
            changed = (folder / "manifest.json").stat()
            write_json(folder / "manifest.json", {**manifest, "files": files})
            # It was finished then, not now: `newest` goes by this time.
            os.utime(folder / "manifest.json", (changed.st_atime, changed.st_mtime))
    remove_folder(one.path)
    return True
