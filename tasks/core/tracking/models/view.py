"""The page that compares models: charts chosen, columns that tell runs apart, one link to it.

    experiment `steel-models`
      tag mlflow.sharedViewState.<name>   a saved view: charts, sections, columns, filter
      link  #/experiments/1/runs?viewStateShareKey=<name>&workflowType=machine_learning&…

MLflow keeps what a user chooses in the browser; a saved view is in the experiment instead, and
opens the same in a browser that was never here. `all-models` shows the newest ones; each pipeline
has a view of the models that its last run made or found. A run's link opens a view of its own
models, of which the last `KEPT` stay.
"""

import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from common.files import hash_of
from tasks.core.tracking.client import (
    MODELS,
    NOTE,
    PIPELINES,
    SPEED,
    Client,
    Unreachable,
    message_of,
)
from tasks.core.tracking.names import TOKENS, VALIDATION, VALIDATION_TOKENS, benchmarks_of

SAVED_VIEW = "mlflow.sharedViewState."
"""Beginning of the tags that hold saved views (MLflow 3.17)."""
KIND = "mlflow.experimentKind"
"""Tag by which MLflow's pages open an experiment for machine learning, not for prompts."""
KIND_VALUE = "custom_model_development"
ALL = "all-models"
KEPT = 40
"""Views of single sets of models in an experiment, of 10 kB each, which its pages load all."""
SMOOTHING = 60
"""Of noisy curves, in per cent, as MLflow's slider has it."""
SHOWN = "FIRST_20_RUNS"
HEIGHT = 300
"""Pixels of a chart."""
ROUTING = "routing/effect"
"""Nats by which mean routing weights change the held-out loss (model/routing_statistics.py)."""
COLUMNS = ("num_parameters", "tokens", "steps", "learning_rate", "seed", "mixture")
"""Parameters shown in the table of runs, beside the accuracies and the losses."""
CLOSED = (
    "train",
    "train_by_source",
    "validation",
    "validation_by_source",
    "routing_layers",
    "perf",
    "data",
    "health",
    "checkpoints",
    "accuracy_in_words",
    "unparsed_in_words",
)
"""Sections below the chosen charts, one click away."""
REST = ("Model metrics", "System metrics")
"""MLflow's own last sections."""
ABOUT = {
    PIPELINES: "One run for each time that a pipeline made something, with a run for each stage.",
    MODELS: "One run for each trained model. Charts, columns and colours are chosen: open a saved "
    "view (above, on the right), or the link that `steel run` and `make up` print.",
    SPEED: "One run for each measured choice of kernels.",
}
"""Descriptions of the experiments."""

log = logging.getLogger("steel.tracking")


def experiment_tags(name: str) -> dict[str, str]:
    """Tags of a new experiment."""
    return {KIND: KIND_VALUE, NOTE: ABOUT[name]}


def _line(
    section: str, title: str, metric: str, *, by: str = "", smooth: int = 0, points: bool = False
) -> dict[str, Any]:
    """A chart of lines. by: metric of the horizontal axis, else steps."""
    return {
        **_card("LINE", section, title, metric),
        "selectedMetricKeys": [metric],
        "xAxisKey": "metric" if by else "step",
        "selectedXAxisMetricKey": by,
        "useGlobalXaxisKey": False,
        "lineSmoothness": smooth,
        "useGlobalLineSmoothing": False,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        **({"displayPoints": True} if points else {}),
    }


def _card(kind: str, section: str, title: str, metric: str) -> dict[str, Any]:
    return {
        "uuid": f"{section}:{metric}:{kind}".lower(),
        "type": kind,
        "metricSectionId": section,
        "displayName": title,
        "metricKey": metric,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
    }


def charts(benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """The chosen charts, in order."""
    return [
        *(_card("BAR", "accuracy", f"{name}: accuracy", f"accuracy/{name}") for name in benchmarks),
        *(
            _line("accuracy", f"{name}: 95 % interval", f"interval_95/{name}", points=True)
            for name in benchmarks
        ),
        _line("loss", "training loss by tokens", "train/loss", by=TOKENS, smooth=SMOOTHING),
        _line("loss", "validation loss by tokens", VALIDATION, by=VALIDATION_TOKENS, points=True),
        _line("preference", "reward margin", "train/reward_margin", smooth=SMOOTHING),
        _line("preference", "preferred", "validation/preference_accuracy", points=True),
        _line("speed", "tokens a second", "perf/tokens_per_second", by=TOKENS, smooth=SMOOTHING),
        _line("speed", "MFU", "perf/mfu", by=TOKENS, smooth=SMOOTHING),
        _card("BAR", "speed", "hours", "cost/hours"),
        _card("BAR", "speed", "energy", "cost/kilowatt_hours"),
        _line("routing", "loss with mean routing, minus loss", ROUTING, points=True),
        _line("routing", "entropy of a token's weights", "routing/entropy", smooth=SMOOTHING),
    ]


def sections(
    benchmarks: Sequence[str], preferences: bool = True, routing: bool = True
) -> list[dict[str, Any]]:
    """Sections in order: those of the chosen charts are open, the rest is closed, and so is what no
    model of the page has yet.

    preferences: a model was trained on preference pairs. routing: one was validated with its mean
    routing weights, too.
    """
    columns = max(2, min(len(benchmarks), 4))
    chosen = (
        ("accuracy", "1 Accuracy, with 95 % intervals (chance: 25 %)", columns),
        ("loss", "2 Loss by tokens", 2),
        ("preference", "3 Preference pairs", 2),
        ("speed", "4 Throughput and cost", 3),
        ("routing", "5 Routing: inert where mean weights do as well", 2),
    )
    empty = {"accuracy": not benchmarks, "preference": not preferences, "routing": not routing}
    found: list[dict[str, Any]] = [
        {
            "uuid": uuid,
            "name": name,
            "display": not empty.get(uuid, False),
            "columns": columns,
            "cardHeight": HEIGHT,
        }
        for uuid, name, columns in chosen
    ]
    found += [{"uuid": f"rest-{name}", "name": name, "display": False} for name in (*CLOSED, *REST)]
    return [{"isReordered": True, "deleted": False, "isGenerated": False, **one} for one in found]


def state(
    benchmarks: Sequence[str],
    runs: Sequence[str] = (),
    preferences: bool = True,
    routing: bool = True,
) -> dict[str, Any]:
    """State of the page. runs: the only ones that are shown; none: the newest."""
    metrics = [f"accuracy/{name}" for name in benchmarks] + [VALIDATION, "train/loss"]
    metrics += [ROUTING] if routing else []
    columns = [f"metrics.`{name}`" for name in metrics] + [f"params.`{name}`" for name in COLUMNS]
    listed = ",".join(f"'{run}'" for run in runs)
    return {
        "compareRunCharts": charts(benchmarks),
        "compareRunSections": sections(benchmarks, preferences, routing),
        "isAccordionReordered": True,
        "runsHiddenMode": SHOWN,
        "selectedColumns": columns,
        "hideEmptyCharts": True,
        "searchFilter": f"attributes.run_id IN ({listed})" if runs else "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": bool(runs),
    }


def slug(pipeline: str) -> str:
    """Name of a pipeline's view, as it stands in an address."""
    return re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-")[:60] or "pipeline"


def view_of_runs(pipeline: str, runs: Iterable[str]) -> str:
    """Name of the view of a pipeline's models; the same for the same runs."""
    # A slug has no dot: no pipeline is called so.
    return f"{slug(pipeline)}.{hash_of(sorted(set(runs)))[:8]}"


def save_view_of_runs(client: Any, pipeline: str, runs: Sequence[str]) -> None:
    """Save the view of some models, which shows the same ones after later runs of the pipeline, and
    remove the oldest ones of such views."""
    title = f"{pipeline}: {len(runs)} models of {time.strftime('%F %R')}"
    save_view(client, view_of_runs(pipeline, runs), title, runs)
    experiment = client.get_experiment_by_name(MODELS)
    of_runs = {
        name: json.loads(value)["updatedAt"]
        for name, value in experiment.tags.items()
        if name.startswith(SAVED_VIEW) and "." in name.removeprefix(SAVED_VIEW)
    }
    for name in sorted(of_runs, key=lambda name: of_runs[name], reverse=True)[KEPT:]:
        client.delete_experiment_tag(experiment.experiment_id, name)


def save_view(client: Any, name: str, title: str, runs: Sequence[str] = ()) -> str | None:
    """Save a view of models; returns its path below MLflow's page, None without an experiment.

    One of runs that have measured nothing, which wait or have just begun, leaves an older view as
    it is: its charts would be blank, where there were some.
    """
    experiment = client.get_experiment_by_name(MODELS)
    if experiment is None:
        return None
    shown = client.search_runs([experiment.experiment_id], max_results=100)
    if runs:
        shown = [run for run in shown if run.info.run_id in set(runs)] or shown
    metrics = {metric for run in shown for metric in run.data.metrics}
    saved: str | None = experiment.tags.get(f"{SAVED_VIEW}{name}")
    if saved and not metrics:
        return view_path(experiment.experiment_id, name)
    benchmarks = benchmarks_of(metrics)
    preferences, routing = "train/reward_margin" in metrics, ROUTING in metrics
    now = int(time.time() * 1000)
    created = json.loads(saved)["createdAt"] if saved else now
    envelope = {
        "name": title,
        "createdAt": created,
        "updatedAt": now,
        "state": json.dumps(state(benchmarks, runs, preferences, routing), separators=(",", ":")),
    }
    text = json.dumps(envelope, separators=(",", ":"))
    client.set_experiment_tag(experiment.experiment_id, f"{SAVED_VIEW}{name}", text)
    return view_path(experiment.experiment_id, name)


def view_path(experiment: str, name: str) -> str:
    """Path of a saved view below MLflow's page."""
    return (
        f"#/experiments/{experiment}/runs?viewStateShareKey={name}"
        "&workflowType=machine_learning&compareRunsMode=CHART"
    )


def experiment_links(uri: str, *wanted: str) -> dict[str, str]:
    """Addresses, below the MLflow page, of the pipeline list and of the comparison of models; those
    that MLflow tells.

    wanted: views of models, the first one that is saved is taken: those of a run, those of a
    pipeline's last one. Else all models are compared.
    """
    links: dict[str, str] = {}
    try:
        client = Client(uri)
        for name in (PIPELINES, MODELS, SPEED):
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                continue
            views = [view for view in (*wanted, ALL) if f"{SAVED_VIEW}{view}" in experiment.tags]
            if views:
                links[name] = view_path(experiment.experiment_id, views[0])
            else:
                chart = "" if name == PIPELINES else "&compareRunsMode=CHART"
                path = f"#/experiments/{experiment.experiment_id}/runs"
                links[name] = f"{path}?workflowType=machine_learning{chart}"
    except Unreachable:
        pass
    except Exception as error:
        log.warning("MLflow did not tell its pages: %s", message_of(error))
    return links
