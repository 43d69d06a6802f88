"""Pack small corpora in a folder, and read what came out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.data import PackedManifest
from model.data.shards import map_starts, open_tokens
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.core.waiting.words import PROGRESS
from tasks.pack import PackConfig, pack
from tests.tasks.running import stage_run

TEXTS = {
    "zh": [
        "林海市的铁匠铺每天早上六点开门。",
        "臺灣的鳳梨酥 é 🍍\u3000",
        "一九九八年，三十七号。" * 3,
        *(f"第{number}号仓库在城东，门朝南。" for number in range(9)),
    ],
    "en": ["The blacksmith's shop opens at 6:30.", "It says <|endoftext|> and <|im_end|>.", "x"],
    "code": ["def area(r):\n\treturn 3.14 * r ** 2\r\n"],
}


def result(folder: Path, stage: str = "clean") -> StageResult:
    return StageResult(stage=stage, key="0" * 16, folder=folder, manifest={})


def write_cleaned(folder: Path, texts: Mapping[str, list[str]]) -> StageResult:
    folder.mkdir(parents=True, exist_ok=True)
    for source, documents in texts.items():
        lines = [
            json.dumps({"text": t, "source": source, "id": str(i), "meta": {}}, ensure_ascii=False)
            for i, t in enumerate(documents)
        ]
        (folder / source).mkdir()
        path = folder / source / "00000.jsonl"
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    (folder / "dropped-examples.jsonl").write_text('{"text": "DROPPED"}\n')
    return result(folder)


def pack_in(
    folder: Path,
    cleaned: StageResult,
    extra: Mapping[str, StageResult] | None = None,
    **config: Any,
) -> StageRun:
    run = stage_run(folder)
    function: Any = pack
    function.__wrapped__(run, PackConfig(**config), cleaned=cleaned, extra_text=extra or {})
    return run


def documents(folder: Path) -> dict[str, list[list[int]]]:
    """Content of the shards of a folder, by source, in the order of shard numbers."""
    manifest = PackedManifest.read(folder / "shards")
    found: dict[str, list[list[int]]] = {}
    for shard in sorted(manifest.shards, key=lambda shard: shard.name):
        tokens = np.asarray(open_tokens(folder / "shards", shard))
        starts = map_starts(folder / "shards", shard)
        parts = np.split(tokens, starts[1:])
        found.setdefault(shard.source, []).extend(part.tolist() for part in parts)
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Content by name, but for what a stage that works tells of its progress."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder) != PROGRESS
    }
