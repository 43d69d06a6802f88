"""Evaluation questions in texts that stay as they are: counted by corpus, with examples.

    <source>/<number>.jsonl ──cut──▶ partitions ──worker processes──▶ found questions, in the cache
                                                                              └─merge─▶ Findings

The result of a partition is kept under a hash of its content and of the index of one benchmark. So
an interrupted search goes on, and one more benchmark is looked for alone: what is found of the
others does not depend on it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from common.config import Config
from common.files import json_line, write_json
from corpus.decontaminate.index import Index
from corpus.partitions import Partition, cut

QUESTIONS_FILE = "questions.jsonl"
"""Every question, with the sources that contain it; what the stage `contamination` writes."""
PARTITION_BYTES = 64 * 1024**2
"""Bytes of text that one worker searches at a time."""
EXAMPLES = 3
"""Passages that are kept of each question, from one partition and in all."""


@dataclass(frozen=True, kw_only=True)
class SearchJob(Config):
    """Texts and benchmarks of a search."""

    files: list[list[str]]
    """Source, path and checksum of each file of {"id", "text"} lines."""
    indexes: dict[str, str]
    """Benchmark -> file of the index of its questions, named by its content (cached.py)."""
    cache: str
    """Folder of results by partition."""
    workers: int
    """Processes that search."""
    partition_bytes: int = PARTITION_BYTES
    """Bytes of text that one process searches at a time."""


@dataclass
class Found:
    """One question, as it was found in texts."""

    documents: Counter[str] = field(default_factory=Counter)
    """Source -> documents that contain it."""
    overlap: float = 0.0
    """Largest share of its tokens that one of them contains."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Some of these documents: id, overlap, excerpt."""


def search(job: SearchJob, report: Callable[[int, int, str], None]) -> None:
    """Search all partitions that the cache does not hold yet.

    report: called with (bytes done, bytes in all, what).
    """
    from corpus.cleaning.engine.workers import map_in_workers

    waiting = [
        (partition, missing)
        for partition, known in _partitions(job)
        if (missing := {name: path for name, path in known.items() if not _is_whole(path)})
    ]
    total = sum(partition.size for partition, _ in waiting)
    indexes = {name: Index.load(Path(path)) for name, path in job.indexes.items()} if total else {}

    def work(one: tuple[Partition, dict[str, Path]]) -> int:
        partition, missing = one
        results = _search_partition(partition, {name: indexes[name] for name in missing})
        for name, result in results.items():
            write_json(missing[name], result)
        return partition.size

    Path(job.cache).mkdir(parents=True, exist_ok=True)
    done = 0
    workers = max(1, min(job.workers, len(waiting)))
    what = "of the texts searched for benchmark questions"
    tick = lambda: report(done, total, what)  # noqa: E731
    for size in map_in_workers(work, waiting, workers, tick, "fewer contamination.workers"):
        done += size
        report(done, total, what)


def findings(job: SearchJob) -> dict[str, dict[int, Found]]:
    """Benchmark -> number of a question in its index -> where it was found; after `search`."""
    merged: dict[str, dict[int, Found]] = {name: {} for name in job.indexes}
    for partition, known in _partitions(job):
        for name, path in known.items():
            for number, found in json.loads(path.read_bytes())["questions"].items():
                one = merged[name].setdefault(int(number), Found())
                one.documents[partition.source] += found["documents"]
                one.overlap = max(one.overlap, found["overlap"])
                one.examples += found["examples"][: EXAMPLES - len(one.examples)]
    return merged


def _partitions(job: SearchJob) -> Iterator[tuple[Partition, dict[str, Path]]]:
    """Each partition that holds text, with the file of its result for each benchmark."""
    checksums = {path: checksum for _, path, checksum in job.files}
    for partition in cut([(source, path) for source, path, _ in job.files], job.partition_bytes):
        if partition.size:
            sums = checksums[partition.path]
            yield partition, {n: _result_path(job, partition, sums, n) for n in job.indexes}


def _result_path(job: SearchJob, partition: Partition, checksum: str, benchmark: str) -> Path:
    # The name of an index is a hash of the questions, of the thresholds, and of this code.
    index = Path(job.indexes[benchmark]).stem
    material = json_line([index, checksum, partition.start, partition.end])
    return Path(job.cache) / f"search-{hashlib.sha256(material).hexdigest()[:32]}.json"


def _is_whole(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _search_partition(
    partition: Partition, indexes: Mapping[str, Index]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in indexes}
    numbers = {
        name: {(q.benchmark, q.id): n for n, q in enumerate(index.questions)}
        for name, index in indexes.items()
    }
    for _, line in partition.lines():
        document = orjson.loads(line)
        for name, index in indexes.items():
            for match in index.find(document["text"]):
                number = numbers[name][match.benchmark, match.question_id]
                one = found[name].setdefault(
                    number, {"documents": 0, "overlap": 0.0, "examples": []}
                )
                one["documents"] += 1
                one["overlap"] = max(one["overlap"], match.overlap)
                if len(one["examples"]) < EXAMPLES:
                    one["examples"].append(
                        {"id": document["id"], "overlap": match.overlap, "excerpt": match.excerpt}
                    )
    return {
        name: {"questions": {str(n): one for n, one in sorted(of.items())}}
        for name, of in found.items()
    }


def places_of(index: Index) -> Sequence[tuple[str, str, int]]:
    """Subject, split and index of each question: its place among the sound rows of its file, by
    which an evaluation's samples name it."""
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for question in index.questions:
        subject, split, _ = question.id.rsplit("/", 2)
        places.append((subject, split, seen[subject, split]))
        seen[subject, split] += 1
    return places
