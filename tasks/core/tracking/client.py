"""Names and addresses of experiments in MLflow, and calls whose errors stop nothing."""

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

PIPELINES = "steel"
MODELS = "steel-models"
SPEED = "steel-speed"
BATCH = 900
"""Metrics a request; MLflow takes at most 1,000."""

log = logging.getLogger("steel.tracking")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def never_fail(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
    """Log what the tracker raises, once per method and message, and go on."""
    seen: set[str] = set()

    @functools.wraps(method)
    def guarded(self: S, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            message = f"{type(error).__name__}: {str(error)[:300]}"
            if message not in seen:
                seen.add(message)
                log.warning("MLflow did not take %s: %s", method.__name__, message)
            return None

    return cast("Callable[Concatenate[S, P], R | None]", guarded)


def default_uri(store: Path) -> str:
    """The tracking URI: the user's MLFLOW_TRACKING_URI, else SQLite inside the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store / 'mlflow' / 'mlflow.db'}"


def experiment_links(uri: str) -> dict[str, str]:
    """Addresses, below the MLflow page, of the pipeline list and of the comparison of models."""
    client = MlflowClient(tracking_uri=uri)
    links = {}
    chart = "&compareRunsMode=CHART"
    for name, mode in ((PIPELINES, ""), (MODELS, chart), (SPEED, chart)):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            path = f"#/experiments/{experiment.experiment_id}/runs"
            links[name] = f"{path}?workflowType=machine_learning{mode}"
    return links


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    """Log single values, in one request."""
    now = int(time.time() * 1000)
    batch = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    if batch:
        client.log_batch(run_id, metrics=batch)
