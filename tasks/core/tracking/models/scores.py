"""Figures of an evaluation, in the run of the model that was evaluated.

    accuracy/<benchmark>              a number, linked to the benchmark's files
    interval_95/<benchmark>           its 95 % interval: three points above each other, at the
                                      model's own place on the axis
    accuracy_in_words/<benchmark> …   the same question answered in words, in each form
    accuracy_clean/<benchmark> …      without questions that were in the training data, if any were
    bits_per_byte/<kind of text>

Numbers of questions and of what went wrong stand in the evaluation's own tables.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.entities import Metric

from tasks.core.tracking.client import NOTE
from tasks.core.tracking.models.colours import PLACE
from tasks.core.tracking.parameters import log_inputs

STEPS_A_PLACE = 10
"""Steps between the intervals of two models; a model that is evaluated anew takes the next one."""
IN_WORDS = ("accuracy", "unparsed")
CLEAN = "accuracy_clean/"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a model."""

    name: str
    """Of the metric."""
    value: float
    data: str = ""
    """Input of the evaluation that it was measured on."""
    digest: str = ""
    """Key of the stage that made this input."""
    interval: tuple[float, float] | None = None
    """95 % interval."""


def figures(evaluation: Mapping[str, Any]) -> list[Figure]:
    """Figures of the manifest of a stage that scores a model."""
    inputs: Mapping[str, Any] = evaluation.get("inputs", {})
    keys = inputs.get("benchmarks") or {}
    noted: Mapping[str, Any] = evaluation.get("notes", {}).get("accuracy", {})
    found = []
    for name, value, benchmark in _named(evaluation["counts"]):
        interval = None
        if name == f"accuracy/{benchmark}" and benchmark in noted:
            low, high = noted[benchmark]["interval_95"]
            interval = (float(low), float(high))
        digest = keys.get(benchmark, "") if isinstance(keys, Mapping) else ""
        data = benchmark if digest else ""
        found.append(
            Figure(name=name, value=float(value), data=data, digest=digest, interval=interval)
        )
    return found


def _named(counts: Mapping[str, float]) -> Iterator[tuple[str, float, str]]:
    """Metric's name, value and benchmark of the counts that say something of the model."""
    for name, value in counts.items():
        kind, *rest = name.split("/")
        if not rest:
            continue
        if kind in IN_WORDS and len(rest) == 2:
            if kind == "accuracy" or value:
                yield f"{kind}_in_words/{rest[0]} {rest[1].replace('_', ' ')}", value, rest[0]
        elif name.startswith(CLEAN):
            # Without contaminated questions it is the accuracy once more.
            if counts.get(name.replace(CLEAN, "questions_contaminated/")):
                yield f"{kind}/{' '.join(rest).replace('_', '-')}", value, rest[0]
        elif kind in ("accuracy", "bits_per_byte"):
            yield f"{kind}/{' '.join(rest)}", value, rest[0]


def kept(of_model: list[Figure]) -> list[dict[str, Any]]:
    """The same as JSON values."""
    return [asdict(figure) for figure in of_model]


def read(rows: list[dict[str, Any]]) -> list[Figure]:
    """The same from JSON values."""
    return [Figure(**{**row, "interval": tuple(row["interval"] or ()) or None}) for row in rows]


def log_figures(client: Any, run_id: str, of_model: list[Figure], model_id: str | None) -> None:
    """Log the figures that a run does not have yet, linked to their data and the logged model."""
    run = client.get_run(run_id)
    now, batch = int(time.time() * 1000), []
    place = int(run.data.tags.get(PLACE, "0"))
    for figure in of_model:
        if run.data.metrics.get(figure.name) == figure.value:
            continue
        linked = {"model_id": model_id} if model_id else {}
        if figure.data:
            linked |= {"dataset_name": figure.data, "dataset_digest": figure.digest}
        batch.append(Metric(figure.name, figure.value, now, 0, **linked))
        if figure.interval is not None:
            name = figure.name.replace("accuracy/", "interval_95/")
            last = client.get_metric_history(run_id, name) if name in run.data.metrics else []
            step = last[-1].step + 1 if last else place * STEPS_A_PLACE
            low, high = figure.interval
            batch += [
                Metric(name, value, now + number, step)
                for number, value in enumerate((low, figure.value, high))
            ]
    if batch:
        client.log_batch(run_id, metrics=batch)
        log_inputs(client, run_id, {f.data: f.digest for f in of_model if f.data}, "evaluation")
        describe(client, run_id, of_model)


def describe(client: Any, run_id: str, of_model: list[Figure]) -> None:
    """Write the accuracies into the run's description."""
    rows = [figure for figure in of_model if figure.interval is not None]
    if not rows:
        return
    lines = ["| benchmark | accuracy % | 95 % interval |", "| --- | ---: | ---: |"]
    for figure in rows:
        assert figure.interval is not None
        low, high = figure.interval
        name = figure.name.removeprefix("accuracy/")
        lines.append(f"| {name} | {100 * figure.value:.1f} | {100 * low:.1f} to {100 * high:.1f} |")
    client.set_tag(run_id, NOTE, "\n".join(lines))


def with_intervals(of_model: list[Figure]) -> set[str]:
    """Names of the metrics that a mean accuracy is of."""
    return {figure.name for figure in of_model if figure.interval is not None}


def mean_accuracy(of_model: list[Figure]) -> float | None:
    """Mean of the accuracies over the benchmarks; None where there is none."""
    values = [figure.value for figure in of_model if figure.interval is not None]
    return sum(values) / len(values) if values else None
