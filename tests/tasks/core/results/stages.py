"""Stages of a store, written as a run leaves them."""

import json
import os
from pathlib import Path
from typing import Any


def key(number: int) -> str:
    """A key of 16 digits that begins like no other."""
    return f"{number:04x}" * 4


def finished(
    store: Path, stage: str, number: int, *, inputs: dict[str, Any] | None = None, **about: Any
) -> Path:
    """A finished stage, with one file of 10 bytes and a time that follows from its number."""
    folder = store / stage / key(number)
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * 10)
    manifest = {
        "schema": 1,
        "stage": stage,
        "key": key(number),
        "inputs": inputs or {},
        "files": [{"path": "file", "bytes": 10, "md5": "0" * 32}],
        **about,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.utime(folder / "manifest.json", (number, number))
    return folder


def interrupted(store: Path, stage: str, number: int, **about: Any) -> Path:
    """A stage that was begun, long ago."""
    folder = store / stage / f"{key(number)}.partial"
    (folder / ".scratch").mkdir(parents=True)
    (folder / ".scratch" / "begun.json").write_text(json.dumps(about))
    os.utime(folder, (number, number))
    for path in folder.iterdir():
        os.utime(path, (number, number))
    return folder


def pipeline(store: Path, first: int, *, name: str, model: dict[str, Any] | None = None) -> None:
    """Corpora, packed data, a base, an SFT model, its scores and the report, each from the last."""
    finished(store, "acquire", first, label="corpora")
    finished(store, "pack", first + 1, inputs={"cleaned": key(first)})
    finished(
        store, "pretrain", first + 2, inputs={"packed": key(first + 1)}, label=name, **(model or {})
    )
    finished(store, "sft", first + 3, inputs={"base": key(first + 2)}, label="balanced")
    finished(store, "evaluate", first + 4, inputs={"model": key(first + 3)}, label="sft balanced")
    finished(
        store,
        "report",
        first + 5,
        inputs={"evaluations": {"sft balanced": key(first + 4)}, "packed": key(first + 1)},
        config={"title": name},
    )
