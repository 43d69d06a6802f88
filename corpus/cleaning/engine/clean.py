"""Cleaning on one machine: both passes over all partitions, in worker processes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.child import Report
from corpus.cleaning import ledger
from corpus.cleaning.deduplication.duplicates import find_duplicates
from corpus.cleaning.deduplication.recipe_deduplicators import positions_of, shared_deduplicators
from corpus.cleaning.deduplication.survivor_texts import num_survivors
from corpus.cleaning.engine import pipeline
from corpus.cleaning.engine.partition_cleaner import FamilyOperators, PartitionCleaner
from corpus.cleaning.engine.workers import map_in_workers
from corpus.cleaning.job import CleanJob
from corpus.cleaning.recipe import Recipe
from corpus.cleaning.review.sample import Sample
from corpus.partitions import cut
from corpus.recipes import FAMILIES, Family


def clean_locally(
    job: CleanJob, recipes: Mapping[Family, Recipe], report: Report
) -> dict[str, Any]:
    """Clean with worker processes on this machine. Returns the ledger and examples of the job."""
    scratch = Path(job.scratch)
    report(0, 1, "loading models")
    built = pipeline.build_once(op for one in recipes.values() for op in one.operators)
    shared = shared_deduplicators(recipes, built)
    operators = {
        family: FamilyOperators(
            operators=[built[op.key] for op in one.by_document],
            names=[op.name for op in one.operators],
            deduplicators=positions_of(one, shared),
        )
        for family, one in recipes.items()
    }
    cleaner = PartitionCleaner(
        families=operators,
        family_of=job.family_of,
        deduplicators=shared,
        filtered=scratch / "filtered",
        output=Path(job.output),
        reports=scratch / "reports",
        examples=job.examples,
    )
    statistics = pipeline.load_models(
        [built[op.key] for one in recipes.values() for op in one.by_document]
    )
    partitions = cut(job.inputs.items(), job.partition_bytes)
    total = sum(partition.size for partition in partitions)

    def tick() -> None:
        report(cleaner.bytes_done.value, total, "bytes read")

    for _ in map_in_workers(cleaner.apply_operators, partitions, job.workers, tick):
        pass
    report(total, total, "looking for duplicates")
    # Of copies the first one stays: in this order, the one of the family that is preferred.
    preferred = sorted(partitions, key=lambda one: FAMILIES.index(job.family_of[one.source]))
    filtered = [cleaner.filtered / partition.name for partition in preferred]
    if shared:
        cleaner.duplicates = find_duplicates(
            shared,
            filtered,
            scratch / "duplicates",
            job.workers,
            lambda: report(total, total, "looking for duplicates"),
        )
    offsets = [0]
    for folder in filtered:
        offsets.append(offsets[-1] + num_survivors(folder))
    report(total, total, "writing")
    work = zip(preferred, offsets, strict=False)
    for _ in map_in_workers(cleaner.write_kept, work, job.workers, lambda: None):
        pass
    sample = Sample(most=job.examples)
    entries, matches = [], []
    for partition in partitions:
        finished = json.loads((cleaner.reports / f"{partition.name}.json").read_text("utf-8"))
        entries += [ledger.LedgerEntry(**entry) for entry in finished["entries"]]
        sample.take(finished["sample"])
        matches += finished["matches"]
    return {
        "rows": ledger.rows(job.family_of, entries),
        "sample": sample.as_json(),
        "matches": matches,
        "statistics": statistics,
        "notes": {"partitions": len(partitions)},
    }
