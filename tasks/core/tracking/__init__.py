"""Runs, metrics and artifacts in MLflow; the only package that imports it.

    experiment `steel`         one parent run per pipeline ── a child run per stage
    experiment `steel-models`  flat: one run per trained model (base, each SFT mixture, DPO),
                               joined by the tag `pipeline_id`, so that the comparison page charts
                               them (nested children would be collapsed there)
    experiment `steel-speed`   flat likewise: one run per measured configuration of kernels

    tracker.py ──▶ stage_track.py ──▶ metric_mirror.py ──▶ client.py

Work never waits for, nor dies of, a tracker: a call that fails is logged once and the rest goes
on. Metrics by step come from the trainer's metrics.jsonl; `MetricMirror` copies that file into
MLflow in order and once, also after an outage or a restart.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tasks.core.tracking.client import MODELS, PIPELINES, SPEED, Client, default_uri

if TYPE_CHECKING:
    from tasks.core.tracking.killed import end_killed_runs
    from tasks.core.tracking.metric_mirror import MetricMirror
    from tasks.core.tracking.models.view import experiment_links
    from tasks.core.tracking.stage_track import StageTrack
    from tasks.core.tracking.tracker import Tracker

LATER = {
    "MetricMirror": "metric_mirror",
    "StageTrack": "stage_track",
    "Tracker": "tracker",
    "end_killed_runs": "killed",
    "experiment_links": "models.view",
}
"""Names whose module imports MLflow, which takes seconds: imported when they are asked for."""

__all__ = [
    "MODELS",
    "PIPELINES",
    "SPEED",
    "Client",
    "MetricMirror",
    "StageTrack",
    "Tracker",
    "default_uri",
    "end_killed_runs",
    "experiment_links",
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LATER[name]}"), name)
