"""Evaluation of the checkpoints of a pretraining, beside it or afterwards.

The run is the configuration's own, or any in the store; benchmarks and settings are the
configuration's (`checkpoint_scores`). What is measured, and how: tasks/checkpoint_scores.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from common.errors import ConfigError
from common.files import PARTIAL
from common.paths import display, resolve
from flows.config import PipelineConfig
from flows.graph import Pipeline
from flows.preflight import preflight
from flows.runs.first_look import given
from flows.runs.session import Session, session
from flows.schedules.newest_run import newest_run, own_run
from model.train.run.folder import JOB_FILE
from tasks.checkpoint_scores.curves import points, read_records, rows_of
from tasks.checkpoint_scores.questions import Questions, read_questions
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.checkpoint_scores.watch import POLL_SECONDS, Watched, Watcher, scores_folder
from tasks.core.artifacts import publish_artifact, run_logger
from tasks.core.plan import no_tracker
from tasks.core.stage import Context, NotMadeError
from tasks.core.tracking.points import PointsOfModel
from tasks.hold_out import FOLDER


def evaluate_checkpoints(
    run: str | None, watch: bool, config: str, store: str, overrides: list[str]
) -> dict[str, Any]:
    """Measure checkpoints, draw their curves, and return where they are.

    Raises ConfigError or DataError before any work where the run or the questions are none.
    """
    if not watch and (summary := _nothing_new(run, config, resolve(store), overrides)):
        return summary
    with session(config, store, overrides) as opened:
        own = own_run(opened.config, opened.context.store)
        newest = own if watch else newest_run(opened.config, opened.context.store)
        found = PretrainingRun.find(opened.context.store, run) if run else newest
        if found is None:
            raise ConfigError(f"{opened.config.name} has no pretraining of its own: name a run")
        _await_beginning(found, opened.config, watch=watch)
        questions = _questions(
            opened.pipeline, found, is_own=own is not None and found.key == own.key
        )
        in_mlflow = PointsOfModel(opened.context.tracker, found.key)
        watcher = Watcher(
            found,
            questions,
            store=opened.context.store,
            log=run_logger(),
            on_record=lambda records: in_mlflow.send(points(records)),
        )
        return _summary(opened, found, watcher(watch=watch))


def _nothing_new(
    run: str | None, file: str, store: Path, overrides: list[str]
) -> dict[str, Any] | None:
    """The result where every checkpoint of the pretraining is measured, or, if none is named,
    none has begun; None where there is something to do. Nothing is recorded for it in MLflow."""
    config = preflight(file, given(overrides), store)
    found = PretrainingRun.find(store, run) if run else newest_run(config, store)
    summary: dict[str, Any] = {
        "name": config.name,
        "store": str(store),
        "run": found.key if found is not None else None,
        "folder": None,
        "measured": [],
        "known": 0,
        "gone": [],
        "failed": {},
        "ended": found is not None and found.finished,
        "checkpoints": [],
    }
    if found is None or not (found.folder / JOB_FILE).is_file():
        if run or not config.pretrains:
            return None  # refused below
        run_logger().info("no pretraining of %s has begun: nothing to evaluate", config.name)
        return summary
    looked_up = frozenset({"acquire", "normalize", "hold_out"})
    context = Context(store=store, tracker=no_tracker(), not_made=looked_up, is_task=False)
    own = own_run(config, store)
    is_own = own is not None and found.key == own.key
    try:
        asked = _questions(Pipeline(config, context), found, is_own=is_own)
    except NotMadeError:
        return None
    folder = scores_folder(store, found, asked)
    known = {record["digest"] for record in read_records(folder)}
    if any(checkpoint.digest not in known for checkpoint in found.checkpoints()):
        return None
    run_logger().info("%s has no checkpoint that is not measured: nothing is new", found.key)
    return {**summary, "folder": str(folder), "known": len(known), "checkpoints": rows_of(folder)}


def _await_beginning(run: PretrainingRun, config: PipelineConfig, *, watch: bool) -> None:
    """Wait for a run that is about to begin. Raises ConfigError where it does not."""
    minutes = config.checkpoint_scores.stopped_minutes if watch else 0
    deadline = time.monotonic() + 60 * minutes
    while not (run.folder / JOB_FILE).is_file():
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"the pretraining {run.key} has not begun: there is no "
                f"{display(run.finished_folder)} and no {run.key}{PARTIAL} with a {JOB_FILE}"
            )
        time.sleep(POLL_SECONDS)


def _questions(pipeline: Pipeline, run: PretrainingRun, *, is_own: bool) -> Questions:
    config, context = pipeline.config, pipeline.context
    chosen = config.checkpoint_scores.benchmarks or list(config.benchmarks)
    acquired = pipeline.benchmarks if chosen else {}
    held_out: dict[str, Path] = {}
    # Of another run these documents may be training data.
    if is_own and config.held_out:
        looked_up = frozenset({"acquire", "normalize", "hold_out"})
        try:
            result = Pipeline(config, replace(context, not_made=looked_up)).held_out
        except NotMadeError:
            result = None
        if result is not None:
            held_out = {path.stem: path for path in (result.folder / FOLDER).glob("*.jsonl")}
    return read_questions(
        config.checkpoint_scores,
        run,
        {name: acquired[name] for name in chosen},
        dict(sorted(held_out.items())),
        on_bad_row=config.evaluate.on_bad_row,
    )


def _summary(opened: Session, run: PretrainingRun, result: Watched) -> dict[str, Any]:
    rows = rows_of(result.folder)
    picture = result.folder / "curves.png"
    tracker = opened.context.tracker
    if result.measured:
        tracker.opened()
    if picture.is_file():
        tracker.show(picture)
    tracker.table("checkpoints.json", rows)
    if rows and flow_run.id:
        publish_artifact(
            run_logger(),
            "table",
            key="checkpoints",
            table=rows,
            description=f"Checkpoints of {display(resolve(run.folder))}",
        )
    return {
        "name": opened.config.name,
        "store": str(opened.context.store),
        "run": run.key,
        "folder": str(result.folder),
        "measured": result.measured,
        "known": result.known,
        "gone": result.gone,
        "failed": {str(step): reason for step, reason in result.failed.items()},
        "ended": result.ended,
        "checkpoints": rows,
    }
