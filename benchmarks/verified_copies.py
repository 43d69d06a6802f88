"""Copies that the engine drops, with the recipes as they are shipped: how many, and how rightly.

    python -m benchmarks.verified_copies                all tables
    python -m benchmarks.verified_copies --documents N  time and memory for N documents instead

near_duplicates.py compares hashes; this goes through the whole search, on disk, with its bounds.
Real rows are those of ../shared/data.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks._sample_texts import EDITS, SHARED, headlines, questions
from benchmarks.near_duplicates import LANGUAGES, MAX_REAL, MIN_REAL, Mappers, Planted, Reference
from corpus.cleaning import document_trace
from corpus.cleaning import recipe as recipes
from corpus.cleaning.deduplication.duplicates import find_duplicates
from corpus.cleaning.deduplication.recipe_deduplicators import RecipeDeduplicator, hash_table
from corpus.cleaning.deduplication.survivor_texts import write_ends

RECIPES = {
    "chinese": ("repaired/text", "curated/text"),
    "english": ("repaired/text", "curated/text"),
    "code": ("repaired/code", "curated/code"),
}
BATCH = 256
PART = 50_000
"""Documents of a partition."""


def deduplicator(name: str) -> RecipeDeduplicator:
    """The deduplicator of a recipe that looks for copies."""
    from corpus.cleaning.engine import pipeline

    (operator,) = [op for op in recipes.load(name).deduplicators if op.name.startswith("document_")]
    return RecipeDeduplicator(position=1, operator=operator, built=pipeline.build([operator])[0])


def write_partition(folder: Path, texts: Sequence[str], step: RecipeDeduplicator) -> float:
    """Write a partition as the engine's first pass does. Returns the seconds for its hashes."""
    folder.mkdir(parents=True)
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "dropped_by": 0, "failed": False}
    rows = [trace | {"id": str(i), "edits": [], "stats": {}} for i in range(len(texts))]
    document_trace.write(document_trace.table_of(rows), folder / "document_trace.parquet")
    lines = [(json.dumps({"text": text}) + "\n").encode() for text in texts]
    (folder / "kept.jsonl").write_bytes(b"".join(lines))
    write_ends(folder, [len(line) for line in lines])
    (folder / "counts.json").write_text(json.dumps({"survivors": len(texts)}))
    start = time.process_time()
    hashes: list[dict[str, Any]] = []
    for at in range(0, len(texts), BATCH):
        hashes += step.hashes(texts[at : at + BATCH])
    seconds = time.process_time() - start
    pq.write_table(hash_table(hashes, step), folder / "hashes-01.parquet")
    return seconds


class Search:
    """The copies among some texts."""

    def __init__(self, texts: Sequence[str], step: RecipeDeduplicator) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.hashing = write_partition(Path(folder, "p"), texts, step)
            start = time.process_time()
            found = find_duplicates([step], [Path(folder, "p")], Path(folder, "found"))
            self.finding = time.process_time() - start
            copies = np.flatnonzero(np.asarray(found.dropped_by))
            self.copies = {int(i): int(found.representative[i]) for i in copies}
            verified = found.similarity[copies]
            self.least = float(verified.min()) if len(copies) and verified.all() else 0.0
        self.largest = max(Counter(self.copies.values()).values(), default=0) + 1


def planted_table(count: int) -> Iterator[str]:
    """Share of edited copies that are dropped for their original, by kind of edit."""
    yield f"| recipe | rows | {' | '.join(EDITS)} | dropped for a stranger |"
    yield "|" + "---|" * (len(EDITS) + 3)
    for language, load in LANGUAGES.items():
        planted = Planted.of(load(SHARED), language, count=count)
        for name in RECIPES[language]:
            step = deduplicator(name)
            mapped = planted.mapped(Mappers(name))
            num, cells, strangers = len(mapped.originals), [], 0
            for edit in EDITS:
                if edit not in mapped.copies:
                    cells.append("")
                    continue
                found = Search(mapped.originals + mapped.copies[edit], step).copies
                right = sum(found.get(num + i) == i for i in range(num))
                strangers += len(found) - right
                cells.append(f"{100 * right / num:.0f} %")
            yield f"| {name} | {language} | {' | '.join(cells)} | {strangers} |"


def real_table() -> Iterator[str]:
    """Real documents dropped, and the similarity to what is kept in their place."""
    yield (
        "| recipe | rows | documents | MB | hashes MB/s | finding s | dropped | least verified "
        "| of >= 0.7 in 5-grams | least in 5-grams | copies in 5-grams, all compared |"
    )
    yield "|" + "---|" * 11
    rows = {language: load(SHARED) for language, load in LANGUAGES.items()}
    for language, texts in (
        *((name, rows[name]) for name in LANGUAGES),
        ("headlines", headlines(SHARED)),
        ("questions", questions(SHARED)),
    ):
        texts = [text for text in texts if MIN_REAL <= len(text) <= MAX_REAL]
        for name in RECIPES.get(language, RECIPES["chinese"]):
            seen = [text for text in Mappers(name)(texts) if len(text) >= 5]
            size = sum(len(text.encode()) for text in seen) / 1e6
            search = Search(seen, deduplicator(name))
            reference = Reference(seen)
            alike = [reference.similarity(a, b) for a, b in search.copies.items()]
            right = sum(value >= 0.7 for value in alike)
            yield (
                f"| {name} | {language} | {len(seen)} | {size:.1f} | {size / search.hashing:.0f} "
                f"| {search.finding:.1f} | {len(alike)} | {search.least:.2f} | {right} "
                f"| {min(alike, default=1):.2f} "
                f"| {len(set(reference.pairs()[:, 1].tolist()))} |"
            )


CITIES = ("北京", "上海", "广州", "成都", "武汉", "西安", "南京", "重庆", "天津")
SKIES = ("晴", "多云", "小雨")


def weather(rng: random.Random) -> str:
    """A page of a template in which numbers differ."""
    days = "".join(
        f"{month}月{rng.randint(1, 28)}日{rng.choice(SKIES)}，气温{rng.randint(1, 9)}到"
        f"{rng.randint(10, 19)}摄氏度，微风{rng.randint(1, 3)}级。"
        for month in (3, 4)
    )
    return (
        f"{rng.choice(CITIES)}市气象台为您播报未来两天的天气预报，请广大市民朋友们注意查收。{days}"
        "气象专家温馨提示：早晚温差较大，请及时增减衣物，谨防感冒；外出请携带雨具，注意交通安全。"
    )


def stranger(rng: random.Random, length: int) -> str:
    """Characters by chance."""
    return "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(length))


def template_table() -> Iterator[str]:
    """Pages that one template wrote, and strangers with the same footer."""
    yield "| recipe | pages | documents | kept | largest cluster | least in 5-grams |"
    yield "|" + "---|" * 6
    rng = random.Random(1)
    footer = stranger(rng, 300)
    kinds = {
        "weather": [weather(rng) for _ in range(1500)],
        "same footer of 300, bodies of 100": [stranger(rng, 100) + footer for _ in range(500)],
        "same footer of 300, bodies of 300": [stranger(rng, 300) + footer for _ in range(500)],
    }
    for kind, texts in kinds.items():
        reference = Reference(texts)
        for name in RECIPES["chinese"]:
            search = Search(texts, deduplicator(name))
            alike = [reference.similarity(a, b) for a, b in search.copies.items()]
            yield (
                f"| {name} | {kind} | {len(texts)} | {len(texts) - len(alike)} | {search.largest} "
                f"| {min(alike, default=1):.2f} |"
            )


def large(count: int, workers: int) -> Iterator[str]:
    """Time and memory for many documents, a fifth of them copies with up to 2 % of edits."""
    step, rng = deduplicator("curated/text"), random.Random(0)
    folder = Path(tempfile.mkdtemp())
    try:
        kept: list[str] = []
        parts, hashing, size = [], 0.0, 0
        for start in range(0, count, PART):
            texts = []
            for _ in range(min(PART, count - start)):
                text = stranger(rng, 300)
                if kept and rng.random() < 0.2:
                    letters = list(rng.choice(kept))
                    for _ in range(rng.randrange(6)):
                        letters[rng.randrange(300)] = "改"
                    text = "".join(letters)
                elif len(kept) < 100_000:
                    kept.append(text)
                texts.append(text)
            size += sum(len(text.encode()) for text in texts)
            parts.append(folder / f"p{start}")
            hashing += write_partition(parts[-1], texts, step)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start_time, wall = time.process_time(), time.perf_counter()
        found = find_duplicates([step], parts, folder / "found", workers)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        dropped = int(np.count_nonzero(np.asarray(found.dropped_by)))
        yield (
            f"{count} documents, {size / 1e6:.0f} MB, {workers} workers: hashes {hashing:.0f} s, "
            f"finding {time.perf_counter() - wall:.0f} s by the clock "
            f"({time.process_time() - start_time:.0f} s in the main process); {dropped} dropped; "
            f"memory at most {own / 1024:.0f} MB (before {before / 1024:.0f}), a worker "
            f"{child / 1024:.0f} MB, pages of mapped files included"
        )
    finally:
        shutil.rmtree(folder)


def main(argv: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=150, help="planted documents a language")
    parser.add_argument("--documents", type=int, default=0, help="time so many made-up documents")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    tables = [planted_table(args.count), real_table(), template_table()]
    for table in [large(args.documents, args.workers)] if args.documents else tables:
        for line in table:
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
