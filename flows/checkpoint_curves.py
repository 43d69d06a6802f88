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
from common.redaction import hidden_in_errors
from flows.config import PipelineConfig
from flows.graph import Pipeline
from flows.preflight import preflight_once
from flows.runs.first_look import given
from flows.runs.session import Session, session
from flows.schedules.newest_run import newest_run, own_run
from model.train.run.folder import JOB_FILE
from tasks.checkpoint_scores.curves import points, read_records, rows_of
from tasks.checkpoint_scores.questions import Questions, read_questions
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.checkpoint_scores.watch import POLL_SECONDS, Watched, Watcher, scores_folder
from tasks.core.artifacts import publish_artifact, run_logger
from tasks.core.lock import LockedError
from tasks.core.plan import no_tracker
from tasks.core.stage import Context, NotMadeError
from tasks.core.tracking.points import PointsOfModel
from tasks.hold_out import FOLDER

LOOKED_UP = frozenset({"acquire", "normalize", "hold_out"})
"""Stages of the held-out texts: they are taken if they stand in the store, and not made."""


def evaluate_checkpoints(
    run: str | None, watch: bool, config: str, store: str, overrides: list[str]
) -> dict[str, Any]:
    """Measure checkpoints, draw their curves, and return where they are.

    Raises ConfigError or DataError before any work where the run or the questions are none.
    """
    if not watch and (summary := _nothing_new(run, config, resolve(store), overrides)):
        return summary
    with session(config, store, overrides) as opened:
        place = opened.context.store
        configured = own_run if watch else newest_run
        found = PretrainingRun.find(place, run) if run else configured(opened.config, place)
        if found is None:
            raise ConfigError(f"{opened.config.name} has no pretraining of its own: name a run")
        _await_beginning(found, opened.config, watch=watch)
        questions = _questions(opened.pipeline, found)
        in_mlflow = PointsOfModel(opened.context.tracker, found.key)
        watcher = Watcher(
            found,
            questions,
            store=place,
            log=run_logger(),
            on_record=lambda records: in_mlflow.send(points(records)),
        )
        try:
            result = watcher(watch=watch)
        except LockedError as error:
            if watch:
                raise
            # A schedule that fires again, or beside one who watches: it measures all that is new.
            run_logger().info("nothing is left to do here: %s", error)
            result = replace(watcher.result, known=len(read_records(watcher.folder)))
            return _summary(opened.config, place, found, result, rows_of(watcher.folder))
        return _show(opened, found, result)


def _nothing_new(
    run: str | None, file: str, store: Path, overrides: list[str]
) -> dict[str, Any] | None:
    """The result where every checkpoint of the pretraining is measured, or, if none is named,
    none has begun; None where there is something to do. Nothing is recorded for it in MLflow."""
    with hidden_in_errors():
        config = preflight_once(file, given(overrides), store)
    found = PretrainingRun.find(store, run) if run else newest_run(config, store)
    if found is None or not (found.folder / JOB_FILE).is_file():
        if run or not config.pretrains:
            return None  # refused below
        run_logger().info("no pretraining of %s has begun: nothing to evaluate", config.name)
        return _summary(config, store, found, None, [])
    context = Context(store=store, tracker=no_tracker(), not_made=LOOKED_UP, is_task=False)
    try:
        asked = _questions(Pipeline(config, context), found)
    except NotMadeError:
        return None
    folder = scores_folder(store, found, asked)
    known = {record["digest"] for record in read_records(folder)}
    if any(checkpoint.digest not in known for checkpoint in found.checkpoints()):
        return None
    run_logger().info("%s has no checkpoint that is not measured: nothing is new", found.key)
    result = Watched(folder=folder, known=len(known), ended=found.finished)
    return _summary(config, store, found, result, rows_of(folder))


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


def _questions(pipeline: Pipeline, run: PretrainingRun) -> Questions:
    config, context = pipeline.config, pipeline.context
    chosen = config.checkpoint_scores.benchmarks or list(config.benchmarks)
    acquired = pipeline.benchmarks if chosen else {}
    held_out: dict[str, Path] = {}
    own = own_run(config, context.store) if config.held_out else None
    # Of another run these documents may be training data.
    if own is not None and run.key == own.key:
        try:
            result = Pipeline(config, replace(context, not_made=LOOKED_UP)).held_out
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


def _show(opened: Session, run: PretrainingRun, result: Watched) -> dict[str, Any]:
    """Show an outcome in MLflow and Prefect; returns its summary."""
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
    return _summary(opened.config, opened.context.store, run, result, rows)


def _summary(
    config: PipelineConfig,
    store: Path,
    run: PretrainingRun | None,
    found: Watched | None,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """The result of a flow; run and found: None where no pretraining has begun."""
    result = found or Watched(folder=store)
    return {
        "name": config.name,
        "store": str(store),
        "run": run.key if run is not None else None,
        "folder": str(found.folder) if found is not None else None,
        "measured": result.measured,
        "known": result.known,
        "gone": result.gone,
        "failed": {str(step): reason for step, reason in result.failed.items()},
        "ended": result.ended,
        "checkpoints": rows,
    }
