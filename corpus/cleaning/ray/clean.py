"""Cleaning on a Ray cluster: the run in a fresh process, and the ledger from its traces."""

import dataclasses
import json
import multiprocessing
import signal
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
from corpus.cleaning.ray.run import run
from corpus.cleaning.recipe import Recipe


def clean_on_ray(job: CleanJob, cleaning: Recipe, report: Report) -> dict[str, Any]:
    """Clean with Data-Juicer's own Ray executor. Returns the ledger and matches of the job."""
    report(0, 1, "looking for the cluster")
    config = dataclasses.replace(RayConfig(**job.ray), partition_bytes=job.partition_bytes)
    statistics = pipeline.load_models(pipeline.build(cleaning.by_document))
    inputs = {source: Path(path) for source, path in job.inputs.items()}
    output = Path(job.output)
    # Ray and Data-Juicer read their environment when they are imported, which has happened here.
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=die_with_parent,
        initargs=(signal.SIGKILL,),
    ) as fresh:
        outcome = fresh.submit(
            run, cleaning, inputs, Path(job.models), output, Path(job.scratch), config, report
        ).result()
    names = [operator.name for operator in operators_on_ray(cleaning)]
    entries = (
        entry
        for path in outcome.document_traces
        for entry in document_trace.ledger_entries(pq.read_table(path), names)
    )
    return {
        "rows": ledger.rows(job.kind, entries),
        "dropped": [],
        "changed": [],
        "matches": [m for path in outcome.questions for m in json.loads(path.read_text("utf-8"))],
        "statistics": statistics,
        "notes": {"ray": outcome.notes},
    }
