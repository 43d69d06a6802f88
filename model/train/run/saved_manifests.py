"""Copies of the manifests of a run's data, kept in its folder so that a difference has a name.

    RUN/manifests/base.json        list of the shards that the run started with
                  <digest>.json    list of the shards of each append

A data state knows its data by one digest: enough to refuse others, too little to say which shard is
another. The copies are written once, before the first checkpoint that depends on them. They decide
nothing: the digests do.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import write_json
from model.data.manifest import PackedManifest, describe_difference
from model.train.run.folder import MANIFESTS_FOLDER

BASE = "base"


def save_manifests(
    run: Path,
    base: PackedManifest,
    appended: Iterable[PackedManifest] = (),
    write: Callable[[Path, Any], None] = write_json,
) -> None:
    """Copy the manifests of a run's data into its folder; called by one process, any time."""
    named = {BASE: base} | {manifest.digest: manifest for manifest in appended}
    for name, manifest in named.items():
        path = run / MANIFESTS_FOLDER / f"{name}.json"
        if not path.exists():
            write(path, manifest.to_dict())


def read_saved_manifest(run: Path, name: str = BASE) -> PackedManifest | None:
    """The copy of the first data's manifest, or of an append's by its digest; None without one.

    Raises DataError when it was edited or damaged.
    """
    path = run / MANIFESTS_FOLDER / f"{name}.json"
    return replace(PackedManifest.read(path), folder=None) if path.is_file() else None


def check_base(run: Path, base: PackedManifest) -> None:
    """Raise DataError naming what differs for other data than the run started with."""
    old = read_saved_manifest(run)
    if old is not None and old.digest != base.digest:
        raise DataError(
            f"the run in {run} started with other data than {base.folder} holds now: "
            f"{describe_difference(old, base)}. Restore them, or start a new run; data are added "
            "by an append"
        )
