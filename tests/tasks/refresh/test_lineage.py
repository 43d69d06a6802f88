"""The stages behind a training's data: corpora are not mixed up with benchmarks."""

import json
from pathlib import Path
from typing import Any

from tasks.core.manifest import StageResult
from tasks.refresh.lineage import Lineage, _folders, _walk


def stage(store: Path, name: str, key: str, inputs: dict[str, Any], **config: Any) -> Path:
    folder = store / name / key
    folder.mkdir(parents=True)
    manifest = {"schema": 1, "stage": name, "key": key, "inputs": inputs, "config": config}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_first_acquisition_is_that_of_the_corpora(tmp_path: Path) -> None:
    stage(tmp_path, "acquire", "evals", {}, kind="evals")
    stage(tmp_path, "acquire", "corpora", {}, kind="corpora")
    stage(tmp_path, "normalize", "n", {"raw": "corpora"})
    stage(tmp_path, "clean", "c", {"benchmarks": {"ceval": "evals"}, "normalized": "n"})
    packed = StageResult.read(stage(tmp_path, "pack", "p", {"cleaned": "c", "extra_text": {}}))
    found: dict[str, dict[str, StageResult]] = {}
    _walk(packed, _folders(tmp_path), found)
    lineage = Lineage(packed=packed, stages=found)
    assert lineage.first("acquire").key == "corpora"
    assert {name: [*of] for name, of in found.items()} == {
        "pack": ["p"],
        "clean": ["c"],
        "acquire": ["corpora"],
        "normalize": ["n"],
    }
