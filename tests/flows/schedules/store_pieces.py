"""Stages of a store as their manifests alone, for tests of what follows from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def stage(
    store: Path,
    name: str,
    key: str,
    inputs: Mapping[str, Any],
    *,
    files: Sequence[Mapping[str, Any]] = (),
    counts: Mapping[str, int] | None = None,
    **config: Any,
) -> Path:
    """Write the manifest of a finished stage; returns its folder."""
    folder = store / name / key
    folder.mkdir(parents=True)
    manifest = {
        "schema": 1,
        "stage": name,
        "key": key,
        "inputs": inputs,
        "config": config,
        "files": list(files),
        "counts": dict(counts or {}),
        "notes": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
