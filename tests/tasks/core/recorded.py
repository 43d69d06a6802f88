"""Finished trainings and their evaluations, as a pipeline records them."""

import json
from pathlib import Path
from typing import Any

from common.files import write_json
from model.train.checkpoint.folders import MARKER, folder_name
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE, MODEL_FOLDER, SESSIONS_FILE
from tasks.core.tracking import Tracker

STEPS, TOKENS = 4, 256
MODELS_OF_DEMO = (
    ("pretrain", "demo", "k-base", 0.26),
    ("sft", "zh", "k-zh", 0.40),
    ("sft", "zh-en", "k-zh-en", 0.45),
    ("dpo", "", "k-dpo", 0.44),
)
"""Stage, label, key and accuracy of the models of one pipeline."""


def lines(steps: int = STEPS) -> list[dict[str, Any]]:
    """Measurements as a trainer writes them."""
    found = []
    for step in range(1, steps + 1):
        metrics = {
            "train/loss": 4.0 / step,
            "train/loss_skypile": 4.1 / step,
            "train/targets": 64.0,
            "data/tokens": float(step * TOKENS),
            "data/epochs_skypile": step / steps,
            "perf/tokens_per_second": 1000.0 + step,
            "perf/checkpoint_stall_seconds": 0.0,
            "perf/seconds_left": float(steps - step),
        }
        if step % 2 == 0:
            metrics |= {"validation/loss": 4.5 / step, "validation/loss_skypile": 4.6 / step}
        found.append({"step": step, "time": 100.0 + step, "metrics": metrics})
    return found


def train(tracker: Tracker, stage: str, label: str, key: str, **config: Any) -> dict[str, Any]:
    """Record one training from its beginning to its manifest; returns that."""
    partial = tracker.store / stage / f"{key}.partial"
    partial.mkdir(parents=True)
    settings = {"steps": 0, "precision": "auto", "learning_rate": 2e-3, "seed": 7, **config}
    inputs = {"packed": "k-packed"}
    settled = {
        "steps": STEPS,
        "precision": "float32",
        "num_parameters": 2214786,
        "tokens": STEPS * TOKENS,
        "share": {"skypile": "61.0 %", "wanjuan": "39.0 %"},
    }
    with tracker.stage(
        stage, label=label, key=key, folder=partial, config=settings, inputs=inputs, trains=True
    ) as track:
        with track.follow(partial / METRICS_FILE):
            text = "".join(json.dumps(line) + "\n" for line in lines())
            (partial / METRICS_FILE).write_text(text)
        begin = {"event": "begin", "session": 1, "step": 0, "batch": 0, "num_processes": 1}
        about = {"device": "CPU", "host": "h", "commit": "c", "software": {}}
        (partial / SESSIONS_FILE).write_text(json.dumps({"time": 101.0, **begin, **about}) + "\n")
        for step in (2, STEPS):
            place = partial / CHECKPOINTS_FOLDER / folder_name(step)
            place.mkdir(parents=True)
            write_json(place / MARKER, {"step": step, "files": {}})
        (partial / MODEL_FOLDER).mkdir()
        write_json(partial / MODEL_FOLDER / "config.json", {"hidden_size": 128})
        (partial / MODEL_FOLDER / "model.safetensors").write_bytes(b"weights")
        manifest = {
            "stage": stage,
            "label": label,
            "key": key,
            "config": settings,
            "inputs": inputs,
            "counts": {"steps": STEPS, "tokens": STEPS * TOKENS, "bad_rows": 0},
            "notes": {"settled": settled},
            "started": 100.0,
            "finished": 110.0,
            "mlflow": track.identity(),
        }
        track.parameters(settled)
        track.counts(manifest["counts"])
        write_json(partial / "manifest.json", manifest)
        partial.rename(partial.with_suffix(""))
        track.manifest(manifest)
    return manifest


def evaluation(accuracy: float) -> dict[str, Any]:
    """Manifest of a model's evaluation on two benchmarks."""
    return {
        "stage": "evaluate",
        "inputs": {"benchmarks": {"ceval": "k-ceval", "mmlu": "k-mmlu"}, "model": "…"},
        "counts": {
            "accuracy/ceval": accuracy,
            "accuracy/mmlu": accuracy - 0.1,
            "accuracy/ceval/answer_first": accuracy - 0.05,
            "unparsed/ceval/answer_first": 0.0,
            "questions": 200,
            "ties": 0,
            "seconds": 9.5,
        },
        "notes": {
            "accuracy": {
                name: {"interval_95": [value - 0.06, value + 0.06]}
                for name, value in (("ceval", accuracy), ("mmlu", accuracy - 0.1))
            }
        },
    }


def record(store: Path, pipeline: str = "demo") -> tuple[Tracker, list[dict[str, Any]]]:
    """A pipeline with a base model, two SFT models and a DPO model, all evaluated."""
    tracker = Tracker(store=store, pipeline=pipeline, pipeline_id="p1", config={"seed": 7})
    made = []
    for stage, label, key, accuracy in MODELS_OF_DEMO:
        manifest = train(tracker, stage, label, key)
        tracker.scores(manifest, evaluation(accuracy))
        made.append(manifest)
    tracker.close("FINISHED")
    return tracker, made
