"""Measurement of one checkpoint, by processes of their own that stand back for the training.

    checkpoint ──hard links──▶ held ──model.entry.export──▶ model ──model.entry.score_checkpoint──▶
    answers (cache of the store), bits per byte ──▶ figures

What a kill leaves is begun anew, but for the subjects that have answers.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.child import Child, python
from common.disk import require_free_space, total_bytes
from common.files import remove_folder, write_json
from common.reading.files import read_json_object
from corpus.benchmarks.proxies import cloze_proxies, letter_proxies
from corpus.benchmarks.questions import LETTERS
from model.digest import model_digest
from model.entry.launch import ENVIRONMENT
from model.evaluate.answers import needed_answers
from model.evaluate.job import CheckpointJob, EvaluateJob, SubjectJob
from model.train.checkpoint.export import ExportJob
from model.train.run.folder import METRICS_FILE
from tasks.checkpoint_scores.questions import Questions
from tasks.checkpoint_scores.run import Checkpoint, hold

log = logging.getLogger("steel.checkpoint_scores")

POLL_SECONDS = 0.2

PER_TEXT = ("bits_of_texts", "bytes_of_texts")
"""Fields of a result in bits per byte that curves do not need."""


def measure(
    checkpoint: Checkpoint,
    questions: Questions,
    texts: Mapping[str, str],
    *,
    work: Path,
    cache: Path,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Figures of a checkpoint; None where retention, or a rollback, was faster than the hold.

    texts: source -> file of texts; work: folder on the run's disk for what is in between, empty
    afterwards; cache: folder of the store for answers; check: called all the time, to raise.

    Raises DataError for a damaged checkpoint, StageError where a process fails.
    """
    started = time.time()
    held = hold(checkpoint, work / "held")
    if held is None:
        return None
    model, results = work / "model", work / "results"
    remove_folder(model)
    remove_folder(results)
    require_free_space(work, total_bytes(held.rglob("*")), "evaluate-checkpoints")
    _run("export", ExportJob(checkpoint=str(held), out=str(model)), work, questions, check)
    remove_folder(held)
    digest = model_digest(model)
    jobs = questions.jobs(digest, folder=work, cache=cache)
    config = questions.config
    job = CheckpointJob(
        evaluate=EvaluateJob(
            model=str(model.resolve()),
            subjects=jobs,
            metrics=str((work / METRICS_FILE).resolve()),
            chat=False,
            limit=config.limit,
            batch_size=config.batch_size,
            dtype=config.dtype,
        ),
        texts=dict(texts),
        window=questions.window,
        results=str(results.resolve()),
        threads=config.threads,
    )
    _run("score_checkpoint", job, work, questions, check)
    record = {
        "step": checkpoint.step,
        "batch": checkpoint.batch,
        "tokens": checkpoint.batch * questions.tokens_per_batch,
        "digest": checkpoint.digest,
        "regular": checkpoint.regular,
        "validation_loss": checkpoint.validation_loss,
        "model": digest,
        "benchmarks": _figures(questions, jobs),
        "bits_per_byte": _bits_per_byte(results, texts),
        "finished": round(time.time(), 3),
        "seconds": round(time.time() - started, 1),
    }
    for place in (model, results, work / "tasks", work / "cloze"):
        remove_folder(place)
    return record


def _run(entry: str, job: Any, work: Path, questions: Questions, check: Callable[[], None]) -> None:
    path = work / f"{entry}.json"
    write_json(path, dataclasses.asdict(job))
    config = questions.config
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    env = {
        **inherited,
        **ENVIRONMENT,
        "OMP_NUM_THREADS": str(config.threads),
        "CUDA_VISIBLE_DEVICES": "" if config.gpu is None else str(config.gpu),
        "HF_DATASETS_CACHE": str((work / "datasets").resolve()),
    }
    with Child(python(f"model.entry.{entry}", path), path, env=env, grace=0) as child:
        while child.poll() is None:
            check()
            time.sleep(POLL_SECONDS)
    if child.poll() != 0:
        raise child.failure(f"evaluate-checkpoints: {entry}")


def _figures(questions: Questions, jobs: list[SubjectJob]) -> dict[str, Any]:
    """Benchmark -> form of the answers -> figures over all its questions."""
    found: dict[str, Any] = {}
    for benchmark in questions.benchmarks:
        scored = benchmark.recipe.scored_split
        own = [job for job in jobs if job.benchmark == benchmark.name]
        letters, targets = [], []
        for job in (job for job in own if job.mode == "likelihood"):
            letters += needed_answers(job)
            asked = benchmark.subjects[job.subject][scored][: questions.config.limit]
            targets += [LETTERS.index(question.answer) for question in asked]
        cloze = [line for job in own if job.mode == "cloze" for line in needed_answers(job)]
        found[benchmark.name] = {"letters": letter_proxies(letters, targets)}
        if cloze:
            found[benchmark.name]["cloze"] = cloze_proxies(cloze)
    return found


def _bits_per_byte(results: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    measured = {source: read_json_object(results / f"{source}.json") for source in texts}
    return {
        source: {name: value for name, value in one.items() if name not in PER_TEXT}
        for source, one in measured.items()
    }
