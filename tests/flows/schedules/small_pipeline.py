"""A small pipeline on local corpora, with stages that need no Prefect: to train, and to refresh.

python -m tests.flows.schedules.small_pipeline train|refresh CONFIG.yaml STORE
"""

import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from common.paths import ROOT
from corpus.sample_data import SampleDataConfig, write_dataset
from flows.graph import Pipeline
from flows.preflight import preflight
from flows.schedules import refresh as refresh_module
from tasks.core.stage import Context
from tasks.core.tracking import Tracker

CORPORA = ("wikipedia_cn", "wanjuan")


def write_corpora(folder: Path, seed: int = 7, scale: float = 0.05) -> dict[str, str]:
    """Corpora of the generator in folders of their own; returns their locations."""
    for name in CORPORA:
        write_dataset("corpora", name, folder / name, SampleDataConfig(seed=seed, scale=scale))
    return {name: str(folder / name) for name in CORPORA}


def write_config(path: Path, corpora: Mapping[str, str], **pretrain: Any) -> Path:
    """A configuration of tiny sizes for these corpora."""
    model = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "expert_intermediate_size": 16,
        "num_experts": 2,
    }
    settings = {
        "num_processes": 1,
        "epochs": 200,
        "model": model,
        "sequence_length": 64,
        "steps": 40,
        "warmup_steps": 2,
        "eval_interval": 20,
        "validation_samples": 4,
        "checkpoints": {"interval": 10, "keep_last": 2},
        **pretrain,
    }
    config = {
        "base": str(ROOT / "deployments" / "small.yaml"),
        "name": "refreshed",
        "sample_data": {"seed": 7, "scale": 0.05},
        "corpora": dict(corpora),
        "benchmarks": {"ceval": "sample-data"},
        "decontaminate": {"ceval": "sample-data"},
        "clean": {"max_drop": {"*": {"total": 1.0}}, "workers": 1},
        "pack": {"validation_fraction": 0.1},
        "pretrain": settings,
    }
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def without_prefect(name: str, store: Path, config: Mapping[str, Any]) -> Iterator[Context]:
    """In the place of `flows.runs.session.tracked`: stages are plain calls."""
    store.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(store=store, pipeline=name, pipeline_id=name, config=config)
    status = "FAILED"
    try:
        yield Context(store=store, tracker=tracker, is_task=False)
        status = "FINISHED"
    finally:
        tracker.close(status)


def train(config: Path, store: Path) -> Path:
    """Make the base model; returns its folder."""
    loaded = preflight(config, (), store)
    with without_prefect("train", store, {}) as context:
        return Pipeline(loaded, context).base.folder


def refresh(config: Path, store: Path) -> dict[str, Any]:
    """Append what is new in the corpora."""
    refresh_module.tracked = without_prefect
    return refresh_module.refresh(None, "keep", str(config), str(store), [])


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    action = {"train": train, "refresh": refresh}[sys.argv[1]]
    print(json.dumps(action(Path(sys.argv[2]), Path(sys.argv[3])), default=str))
