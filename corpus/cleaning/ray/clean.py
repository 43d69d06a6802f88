"""Cleaning on a Ray cluster: a run in a fresh process for each family, and the ledger of all."""

import dataclasses
import json
import multiprocessing
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common.child import Report
from common.processes import die_with_parent
from corpus.cleaning import document_trace, ledger
from corpus.cleaning.engine import pipeline
from corpus.cleaning.job import CleanJob
from corpus.cleaning.ray.plan import RayConfig, operators_on_ray
from corpus.cleaning.ray.run import RayOutcome, run
from corpus.cleaning.recipe import Recipe
from corpus.recipes import Family


def clean_on_ray(job: CleanJob, recipes: Mapping[Family, Recipe], report: Report) -> dict[str, Any]:
    """Clean with Data-Juicer's own Ray executor, one family after the other.

    Near-duplicates are looked for within a family. Returns the ledger and matches of the job.
    """
    report(0, 1, "looking for the cluster")
    config = dataclasses.replace(RayConfig(**job.ray), partition_bytes=job.partition_bytes)
    built = pipeline.build_once(op for one in recipes.values() for op in one.by_document)
    statistics = pipeline.load_models(list(built.values()))
    output = Path(job.output)
    outcomes: dict[Family, RayOutcome] = {}
    # In the order in which the local engine prefers documents. A process of its own for each: Ray
    # and Data-Juicer read their environment when they are imported, which has happened here.
    for family, recipe in recipes.items():
        inputs = {source: Path(path) for source, path in job.families[family].inputs.items()}
        scratch = Path(job.scratch) / family
        with ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=die_with_parent,
            initargs=(signal.SIGKILL,),
        ) as fresh:
            outcomes[family] = fresh.submit(
                run, recipe, inputs, Path(job.models), output, scratch, config, report, family
            ).result()
    entries = (
        entry
        for family, outcome in outcomes.items()
        for path in outcome.document_traces
        for entry in document_trace.ledger_entries(
            pq.read_table(path), [operator.name for operator in operators_on_ray(recipes[family])]
        )
    )
    questions = [path for outcome in outcomes.values() for path in outcome.questions]
    return {
        "rows": ledger.rows(job.family_of, entries),
        "sample": {},
        "matches": [m for path in questions for m in json.loads(path.read_text("utf-8"))],
        "statistics": statistics,
        "notes": {"ray": _notes(outcomes)},
    }


def _notes(outcomes: Mapping[Family, RayOutcome]) -> dict[str, Any]:
    """Notes of all runs: those on the cluster once, replaced operators with their family."""
    notes: dict[str, Any] = {}
    replaced = []
    for family, outcome in outcomes.items():
        notes |= outcome.notes
        replaced += [{"family": family} | one for one in outcome.notes["replaced"]]
    return notes | {"replaced": replaced}
