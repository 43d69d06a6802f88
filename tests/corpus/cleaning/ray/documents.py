"""Normalised files for the tests of cleaning on Ray."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_documents(path: Path, texts: Sequence[str]) -> Path:
    """A normalised file; `meta` has what Arrow would not keep."""
    with path.open("w", encoding="utf-8") as file:
        for line, text in enumerate(texts, start=1):
            meta = {"n": line} if line % 2 else {"n": str(line), "date": "2020-01-02", "x": [1, {}]}
            document = {"text": text, "source": path.stem, "id": f"{path.stem}/a.jsonl#{line}"}
            file.write(json.dumps(document | {"meta": meta}, ensure_ascii=False) + "\n")
    return path


def read_documents(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    return [json.loads(s) for p in paths for s in Path(p).read_text("utf-8").splitlines()]
