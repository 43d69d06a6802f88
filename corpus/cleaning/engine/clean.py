"""Cleaning on one machine: both passes over all partitions, in worker processes."""

import json
from pathlib import Path
from typing import Any

from common.child import Report
from corpus.cleaning import ledger
from corpus.cleaning.deduplication.duplicates import (
    RecipeDeduplicator,
    find_duplicates,
    num_survivors,
)
from corpus.cleaning.engine import pipeline
from corpus.cleaning.engine.partition_cleaner import PartitionCleaner
from corpus.cleaning.engine.workers import map_in_workers
from corpus.cleaning.job import CleanJob
from corpus.cleaning.recipe import Recipe
from corpus.partitions import cut


def clean_locally(job: CleanJob, cleaning: Recipe, report: Report) -> dict[str, Any]:
    """Clean with worker processes on this machine. Returns the ledger and examples of the job."""
    scratch = Path(job.scratch)
    report(0, 1, "loading models")
    built = pipeline.build(cleaning.operators)
    first = len(cleaning.by_document)
    cleaner = PartitionCleaner(
        operators=built[:first],
        names=[op.name for op in cleaning.operators],
        deduplicators=[
            RecipeDeduplicator(position=position, operator=operator, built=object_)
            for position, (operator, object_) in enumerate(
                zip(cleaning.deduplicators, built[first:], strict=True), start=first + 1
            )
        ],
        filtered=scratch / "filtered",
        output=Path(job.output),
        reports=scratch / "reports",
        examples=job.examples,
    )
    statistics = pipeline.load_models(cleaner.operators)
    partitions = cut(job.inputs.items(), job.partition_bytes)
    total = sum(partition.size for partition in partitions)

    def tick() -> None:
        report(cleaner.bytes_done.value, total, "bytes read")

    for _ in map_in_workers(cleaner.apply_operators, partitions, job.workers, tick):
        pass
    report(total, total, "looking for duplicates")
    filtered = [cleaner.filtered / partition.name for partition in partitions]
    if cleaner.deduplicators:
        cleaner.duplicates = find_duplicates(
            cleaner.deduplicators, filtered, scratch / "duplicates"
        )
    offsets = [0]
    for folder in filtered:
        offsets.append(offsets[-1] + num_survivors(folder))
    report(total, total, "writing")
    work = zip(partitions, offsets, strict=False)
    for _ in map_in_workers(cleaner.write_kept, work, job.workers, lambda: None):
        pass
    examples = ledger.Examples(most=job.examples)
    entries, matches = [], []
    for partition in partitions:
        finished = json.loads((cleaner.reports / f"{partition.name}.json").read_text("utf-8"))
        entries += [ledger.LedgerEntry(**entry) for entry in finished["entries"]]
        examples.take(finished)
        matches += finished["matches"]
    return {
        "rows": ledger.rows(job.kind, entries),
        **examples.as_json(),
        "matches": matches,
        "statistics": statistics,
        "notes": {"partitions": len(partitions)},
    }
