"""The store as a whole: find stages in it, verify every byte, list the reports."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import DataError, SteelError
from common.files import PARTIAL, hashing_threads, md5_of_file
from common.paths import ROOT, display, is_system_folder, resolve
from common.reading.files import shown_path
from model.data import PackedManifest
from model.data.manifest import FILE_NAME
from model.data.verify.shards import verify_shards
from model.train.run.folder import MODEL_FOLDER
from tasks.core.lock import is_held
from tasks.core.results.entries import entries, finished_at, finished_folders
from tasks.core.results.names import find_stage, matches
from tasks.core.stage import StageResult


def check_store(store: Path) -> Iterator[DataError]:
    """Yield an error for everything that keeps a store from being written.

    Files where folders should be (the store, a stage, a stage that is being made), folders where
    locks should be, a disk or folder that this user cannot write to, and places that are no store.
    """
    real = Path(os.path.realpath(store))
    if is_system_folder(real) or real in (Path(real.anchor), ROOT):
        yield DataError(
            f"the store {shown_path(store)} would be the root of the disk or of Steel, or a folder "
            "of the system: give a folder of its own with --store"
        )
        return
    place = store
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        where = shown_path(place)
        yield DataError(
            f"the store {shown_path(store)} cannot be made: {where} is no folder. Move it away, or "
            "give another place with --store"
        )
        return
    if not os.access(place, os.W_OK | os.X_OK):
        yield DataError(
            f"the store {shown_path(store)} cannot be written: this user may not write to "
            f"{shown_path(place)}. Change its permissions, or give another place with --store"
        )
        return
    if place != store:
        return
    for folder in sorted(folder for folder in store.iterdir() if folder.name in STAGES):
        if not folder.is_dir():
            yield _in_the_way(folder, "a folder")
            continue
        for entry in sorted(folder.iterdir()):
            if entry.suffix in ("", PARTIAL) and not entry.name.startswith("."):
                if not entry.is_dir():
                    yield _in_the_way(entry, "a folder")
            elif entry.suffix == ".lock" and entry.is_dir():
                yield _in_the_way(entry, "a file")


def _in_the_way(path: Path, wanted: str) -> DataError:
    return DataError(f"{shown_path(path)} should be {wanted} and is not: move it away")


STAGES = (
    "acquire",
    "normalize",
    "hold_out",
    "clean",
    "contamination",
    "new_files",
    "new_documents",
    "new_texts",
    "pack",
    "pretrain",
    "sft",
    "dpo",
    "evaluate",
    "adjusted_scores",
    "bits_per_byte",
    "data_comparison",
    "ffn_comparison",
    "report",
    "throughput",
    "kernel_table",
)
"""Folders of a store in which stages stand."""


def finished_stages(store: Path) -> Iterator[StageResult]:
    """Every finished stage of a store, oldest first. Raises DataError when there is no store."""
    store = resolve(store)
    if not store.is_dir():
        raise DataError(f"there is no store at {display(store)}; `steel run` makes one")
    folders = sorted(finished_folders(store), key=finished_at)
    return (StageResult.read(folder) for folder in folders)


def newest(store: Path, stage: str) -> StageResult | None:
    """The stage's result that was finished last; None where there is none."""
    folder = max(finished_folders(store, stage), key=finished_at, default=None)
    return None if folder is None else StageResult.read(folder)


def named_packed(store: Path, words: str) -> Path:
    """The packed data that a person's words mean. Raises ConfigError."""
    for place in (resolve(words), store / "pack" / words):
        if place.exists():
            return place
    return find_stage(store, words, ("pack",), what="packed data").folder


def newest_first(store: Path, stage: str) -> Iterator[StageResult]:
    """Finished stages of one name, newest first; damaged ones are passed over."""
    for folder in sorted(finished_folders(store, stage), key=finished_at, reverse=True):
        with contextlib.suppress(SteelError):
            yield StageResult.read(folder)


def find_packed(store: Path, data: str) -> Path:
    """The packed shards at a path or under a key of the store. Raises DataError.

    For what a configuration says: its words are in keys, and must mean the same tomorrow.
    """
    for place in (resolve(data), store / "pack" / data):
        if place.exists():
            return place
    raise DataError(
        f"there are no packed data {data!r}, neither at that path nor as a stage in "
        f"{display(store / 'pack')}"
    )


def newest_packed(store: Path) -> Path:
    """The shards of the newest finished stage `pack`. Raises DataError where there is none."""
    packed = newest(store, "pack")
    if packed is None:
        raise DataError(f"nothing is packed in {display(store)}; run `steel run … --stages data`")
    return packed.folder / "shards"


def find_pretraining(store: Path, run: str) -> tuple[Path, bool]:
    """The folder of an unfinished pretraining, and True if it runs now.

    run: its folder, with or without .partial, or words that mean it.

    Raises:
        ConfigError: the words mean several.
        DataError: there is none, or it is finished.
    """
    going = [entry for entry in entries(store, ("pretrain",)) if entry.state != "finished"]
    if not resolve(run).exists() and (found := matches(store, run, going)):
        return found[-1].folder, found[-1].state == "running"
    for named in (resolve(run), store / "pretrain" / run):
        finished = named.with_name(named.name.removesuffix(".partial"))
        if (finished / "manifest.json").is_file():
            raise DataError(
                f"the pretraining {display(finished)} is finished. Go on from its model in a new "
                f"run: --set pretrain.model={display(finished / MODEL_FOLDER)}"
            )
        for folder in (named, finished.with_name(f"{finished.name}.partial")):
            if folder.is_dir():
                return folder, is_held(finished.with_name(f"{finished.name}.lock"))
    keys = ", ".join(entry.key for entry in going)
    there = f"unfinished in {display(store)}: {keys}" if going else "none is unfinished"
    raise DataError(f"there is no pretraining {run!r}; {there}")


def verify(
    store: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare every file of every finished stage with its manifest, and look into packed shards.

    progress: called with (bytes done, bytes in all).

    Returns a row per stage, and a line per file that is missing, changed, of another size, or (a
    shard of tokens) makes no sense: see model/data/verify/shards.py.
    """
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    results = list(finished_stages(store))
    for result in results:
        if "files" not in result.manifest:
            raise DataError(
                f"{display(result.folder / 'manifest.json')} is damaged: it lists no files. "
                "Restore it, or remove the folder to make it anew"
            )
    done, total = 0, sum(entry["bytes"] for r in results for entry in r.manifest["files"])
    with ThreadPoolExecutor(hashing_threads()) as pool:
        for result in results:
            files = result.manifest["files"]
            faults: dict[str, str] = {}
            for entry, fault in zip(files, pool.map(partial(_fault, result), files), strict=True):
                faults |= {entry["path"]: fault} if fault else {}
                done += entry["bytes"]
                if progress:
                    progress(done, total)
            damaged += faults.values()
            if result.stage == "pack":
                damaged += _senseless(result, set(faults))
            rows.append(
                {
                    "stage": result.stage,
                    "key": result.key,
                    "label": result.manifest["label"],
                    "files": len(files),
                    "bytes": sum(entry["bytes"] for entry in files),
                }
            )
    return rows, damaged


def _fault(result: StageResult, entry: dict[str, Any]) -> str:
    """The fault of a file, or ""."""
    path = result.folder / entry["path"]
    if not path.is_file():
        return f"{display(path)} is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"{display(path)} has {path.stat().st_size} bytes, not {entry['bytes']}"
    if md5_of_file(path) != entry["md5"]:
        return f"{display(path)} has changed: its MD5 is not {entry['md5']}"
    return ""


def _senseless(result: StageResult, faulty: set[str]) -> list[str]:
    """Shards whose bytes are as packed, but whose documents, index and ids do not fit."""
    folder = result.folder / "shards"
    if f"shards/{FILE_NAME}" in faulty:
        return []
    manifest = PackedManifest.read(folder)
    names = [{f"shards/{s.name}", f"shards/{s.index_name}"} for s in manifest.shards]
    whole = [s for s, files in zip(manifest.shards, names, strict=True) if not files & faulty]
    faults = verify_shards(manifest, shards=whole, hashes=False)
    return [f"{display(folder)}: {fault}" for fault in faults]


def reports(store: Path) -> list[dict[str, str]]:
    """The finished reports of a store, newest last."""
    return [
        {
            "name": result.manifest["config"]["title"] or result.key,
            "finished": time.strftime("%F %T", time.localtime(result.manifest["finished"])),
            "path": display(result.folder / "report.html"),
        }
        for result in finished_stages(store)
        if result.stage == "report"
    ]
