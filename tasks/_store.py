"""Questions about a whole store: is every byte right, where are the reports, is the order sound."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.data import PackedManifest
from model.data._files import md5_of_file
from model.data.verify import verify_order as prove
from model.errors import ConfigError, DataError
from tasks._recipes import display, resolve
from tasks._stage import StageResult


def finished_stages(store: Path) -> Iterator[StageResult]:
    """Every finished stage of a store, oldest first. Raises DataError when there is no store."""
    store = resolve(store)
    if not store.is_dir():
        raise DataError(f"there is no store at {display(store)}; `steel run` makes one")
    manifests = sorted(store.glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    folders = (path.parent for path in manifests if path.parent.suffix != ".partial")
    return (StageResult.read(folder) for folder in folders)


def newest(store: Path, stage: str) -> StageResult | None:
    """The stage's result that was finished last; None where there is none."""
    manifests = [p for p in store.glob(f"{stage}/*/manifest.json") if p.parent.suffix != ".partial"]
    if not manifests:
        return None
    return StageResult.read(max(manifests, key=lambda path: path.stat().st_mtime).parent)


def verify(store: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare every file of every finished stage with its manifest.

    Returns a row per stage, and a line per file that is missing, changed, or of another size.
    """
    rows, damaged = [], []
    for result in finished_stages(store):
        files = result.manifest["files"]
        for entry in files:
            path = result.folder / entry["path"]
            if not path.is_file():
                damaged.append(f"{display(path)} is missing")
            elif path.stat().st_size != entry["bytes"]:
                damaged.append(
                    f"{display(path)} has {path.stat().st_size} bytes, not {entry['bytes']}"
                )
            elif md5_of_file(path) != entry["md5"]:
                damaged.append(f"{display(path)} has changed: its MD5 is not {entry['md5']}")
        rows.append(
            {"stage": result.stage, "key": result.key, "label": result.manifest["label"],
             "files": len(files), "bytes": sum(entry["bytes"] for entry in files)}
        )  # fmt: skip
    return rows, damaged


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


def verify_order(
    where: Path,
    *,
    ranks: Sequence[int],
    sequence_length: int,
    global_batch: int,
    seed: int,
    restarts: Sequence[int],
    appends: Sequence[str],
    weights: Mapping[str, float],
    validation_fraction: float,
) -> dict[str, Any]:
    """Prove the order of packed shards; see model/data/verify.py for what is proved.

    Args:
        where: a store (its newest packed corpus), a stage folder, or a shards/manifest.json.
        appends: each `MANIFEST@STEP`.

    Raises:
        ConfigError, DataError: there is nothing packed there, or the scenario makes no sense.
    """
    added = []
    for append in appends:
        path, at, step = append.rpartition("@")
        if not at or not step.isdigit():
            raise ConfigError(f"--append {append!r} must look like MANIFEST@STEP")
        added.append((PackedManifest.read(_manifest(resolve(path))), int(step)))
    report = prove(
        PackedManifest.read(_manifest(resolve(where))),
        sequence_length=sequence_length,
        global_batch=global_batch,
        seed=seed,
        ranks=ranks,
        restarts=restarts,
        append=added,
        weights=weights,
        validation_fraction=validation_fraction,
    )
    return report.to_dict()


def _manifest(where: Path) -> Path:
    if where.is_file():
        return where
    inside = where / "shards" / "manifest.json"
    if inside.is_file():
        return inside
    packed = [result for result in finished_stages(where) if result.stage == "pack"]
    if not packed:
        raise DataError(f"nothing is packed in {display(where)}; run `steel run … --stages data`")
    return packed[-1].folder / "shards" / "manifest.json"
