"""Scores of pages by source in tenths, with documents as examples."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpus.cleaning import document_trace

QUALITY = "quality"
"""Statistic of quality_filter."""
EXCERPT = 120
MOST = 1_000_000
"""Pages of a source that are looked at, from its front."""


def deciles(folder: Path) -> list[dict[str, Any]]:
    """A row for each source and tenth of its scored pages, the lowest scores first.

    Each has its bounds, how many pages it has and how many of them are kept, and a page as an
    example: its id, and its beginning where the folder has it.
    """
    sources: dict[str, list[Path]] = {}
    for path in document_trace.files(folder):
        if QUALITY in pq.read_schema(path).names:
            sources.setdefault(path.stem.rpartition("-")[0], []).append(path)
    shown = _texts_of_dropped(folder / "dropped-examples.jsonl")
    return [row for name in sorted(sources) for row in _rows(folder, name, sources[name], shown)]


def _texts_of_dropped(path: Path) -> dict[str, str]:
    examples = map(json.loads, path.read_text("utf-8").splitlines())
    return {example["id"]: str(example.get("text", "")) for example in examples}


def _rows(
    folder: Path, source: str, files: list[Path], shown: dict[str, str]
) -> Iterator[dict[str, Any]]:
    ids: list[str] = []
    scores: list[float] = []
    dropped: list[bool] = []
    for path in files:
        table = pq.read_table(path, columns=["id", "dropped_by", QUALITY])
        table = table.filter(pc.is_valid(table[QUALITY]))
        ids += table["id"].to_pylist()
        scores += table[QUALITY].to_pylist()
        dropped += [bool(position) for position in table["dropped_by"].to_pylist()]
        if len(ids) >= MOST:
            break
    order = np.argsort(np.array(scores), kind="stable")
    for number, part in enumerate(np.array_split(order, 10), 1):
        if len(part):
            # A page whose text is at hand is the better example.
            known = (i for i in part if ids[i] in shown)
            example = int(next(known, part[len(part) // 2]))
            found = document_trace.kept_document(folder, ids[example])
            text = found["text"] if found else shown.get(ids[example], "")
            yield {
                "source": source,
                "tenth": number,
                "from": scores[part[0]],
                "to": scores[part[-1]],
                "documents": len(part),
                "dropped": sum(dropped[i] for i in part),
                "example": ids[example],
                "text": " ".join(text[:EXCERPT].split()),
            }
