"""Models in MLflow: each checkpoint that is kept as a logged model, and the ones to use by alias.

    run of a training ──▶ logged models   `smoke base step 400`, … : step, tokens, losses there,
          │                               data sets, the folder in the store
          └────────────▶ registered model `smoke`   version 1 ◀─ base
                                                    version 2
                                                    version 3 ◀─ best-sft
                                                    version 4 ◀─ dpo

Weights stay where they are, in the store; the tag `steel.folder` names the place. With
`STEEL_MLFLOW_WEIGHTS=copy` those of finished models are copied into MLflow's artifacts, such as a
bucket.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

from common.paths import display
from model.train.checkpoint.folders import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE
from model.train.run.metrics import read_metrics
from tasks.core.tracking.names import TOKENS, charted

WEIGHTS = "STEEL_MLFLOW_WEIGHTS"
"""Environment variable: `copy`, or anything else for a note of the place."""
MODEL_FOLDER = "model"
ROLES = {"pretrain": "base", "sft": "sft", "dpo": "dpo"}
"""Stage -> what its model is called."""
ALIASES = ("base", "dpo")
"""Models whose newest version has their name as an alias."""
BEST_SFT = "best-sft"
"""Alias of the SFT model with the highest mean accuracy in a pipeline's last evaluation."""
LINKED = ("train/loss", "validation/loss")
"""Measurements of a checkpoint that are linked to its logged model."""
NOT_IN_NAMES = re.compile(r"[/:.%\"']")
"""Characters that MLflow takes in no name of a model."""
SMALL_FILES = ("config.json", "generation_config.json", "README.md", "manifest.json")
VERSIONS = "mlflow.modelVersions"
"""Tag by which MLflow's pages find the registered versions of a logged model."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A model that a training has left."""

    folder: Path
    step: int
    final: bool


def kept_models(folder: Path, steps: int) -> Iterator[Kept]:
    """The kept checkpoints of a finished training, oldest first, and its model last."""
    for path in complete_checkpoints(folder / CHECKPOINTS_FOLDER):
        if (step := int(path.name.removeprefix("step-"))) != steps:
            yield Kept(folder=path, step=step, final=False)
    if (folder / MODEL_FOLDER).is_dir():
        yield Kept(folder=folder / MODEL_FOLDER, step=steps, final=True)


def log_models(
    client: Any, run: Any, folder: Path, manifest: Mapping[str, Any], pipeline: str
) -> None:
    """Log the models of a finished training that MLflow does not have yet.

    run: of the training; folder: of its stage, published; pipeline: its name.
    """
    there = {
        int(model.tags.get("steel.step", "-1"))
        for model in logged_models(client, run.info.experiment_id, manifest["key"])
    }
    steps = int(manifest["counts"].get("steps", 0))
    lines = _lines(folder / METRICS_FILE)
    for kept in kept_models(folder, steps):
        if kept.step not in there:
            _log_model(client, run, kept, manifest, pipeline, lines)


def logged_models(client: Any, experiment: str, key: str) -> list[Any]:
    """Logged models of the training with this key."""
    return list(client.search_logged_models([experiment], f"tags.`steel.key` = '{key}'"))


def final_model(client: Any, experiment: str, key: str) -> Any | None:
    """The logged model that the training with this key ended with."""
    found = logged_models(client, experiment, key)
    return next((model for model in found if model.tags.get("steel.final") == "true"), None)


def _log_model(
    client: Any,
    run: Any,
    kept: Kept,
    manifest: Mapping[str, Any],
    pipeline: str,
    lines: Mapping[int, Mapping[str, Any]],
) -> None:
    stage, label = manifest["stage"], manifest.get("label", "")
    role = ROLES.get(stage, stage)
    title = f"{pipeline} {role}" if label in ("", pipeline) else f"{pipeline} {role} {label}"
    model = client.create_logged_model(
        experiment_id=run.info.experiment_id,
        name=NOT_IN_NAMES.sub(" ", f"{title} step {kept.step}"),
        source_run_id=run.info.run_id,
        tags={
            "steel.key": manifest["key"],
            "steel.stage": stage,
            "steel.step": str(kept.step),
            "steel.final": str(kept.final).lower(),
            "steel.folder": display(kept.folder),
        },
        params=_parameters(kept, manifest, lines),
        model_type=role,
    )
    with tempfile.TemporaryDirectory(prefix="steel-model-") as place:
        client.log_model_artifacts(model.model_id, str(_small_copy(kept, manifest, Path(place))))
    if kept.final and os.environ.get(WEIGHTS) == "copy":
        client.log_model_artifacts(model.model_id, str(kept.folder), "weights")
    client.finalize_logged_model(model.model_id, "READY")
    outputs = [LoggedModelOutput(model.model_id, kept.step)]
    client.log_outputs(run.info.run_id, outputs)
    if batch := _measurements(kept, manifest, lines, model.model_id):
        client.log_batch(run.info.run_id, metrics=batch)


def _parameters(
    kept: Kept, manifest: Mapping[str, Any], lines: Mapping[int, Mapping[str, Any]]
) -> dict[str, str]:
    settled = manifest.get("notes", {}).get("settled", {})
    found = {"step": str(kept.step)}
    if "num_parameters" in settled:
        found["num_parameters"] = str(settled["num_parameters"])
    if (line := lines.get(kept.step)) and TOKENS in line["metrics"]:
        found["tokens"] = str(round(line["metrics"][TOKENS]))
    return found


def _measurements(
    kept: Kept, manifest: Mapping[str, Any], lines: Mapping[int, Mapping[str, Any]], model_id: str
) -> list[Metric]:
    """Points that the run has already, with the model and the data that they were measured on."""
    line = lines.get(kept.step)
    if line is None:
        return []
    linked: dict[str, str] = {"model_id": model_id}
    keys = [(name, key) for name, key in manifest["inputs"].items() if isinstance(key, str)]
    data = next(((n, k) for n, k in keys if n in ("packed", "data")), None)
    if data is not None:
        linked |= {"dataset_name": data[0], "dataset_digest": data[1]}
    return [
        Metric(name, float(value), int(line["times"][name] * 1000), kept.step, **linked)
        for name, value in line["metrics"].items()
        if name in LINKED
    ]


def _lines(metrics: Path) -> dict[int, dict[str, Any]]:
    """Measurements by step, each with the time of its line."""
    found: dict[int, dict[str, Any]] = {}
    for line in read_metrics(metrics):
        at = found.setdefault(int(line["step"]), {"metrics": {}, "times": {}})
        named = charted(line["metrics"])
        at["metrics"] |= named
        at["times"] |= dict.fromkeys(named, line["time"])
    return found


def _small_copy(kept: Kept, manifest: Mapping[str, Any], place: Path) -> Path:
    """The files of a model that say what it is, and where its weights are."""
    for name in SMALL_FILES:
        if (kept.folder / name).is_file():
            shutil.copyfile(kept.folder / name, place / name)
    where = {"folder": display(kept.folder), "stage": manifest["stage"], "key": manifest["key"]}
    text = json.dumps({**where, "step": kept.step}, indent=1, ensure_ascii=False)
    (place / "place.json").write_text(text + "\n", encoding="utf-8")
    return place


def registered_name(pipeline: str) -> str:
    """Name of the registered model of a pipeline."""
    return NOT_IN_NAMES.sub(" ", pipeline).strip() or "steel"


def versions(client: Any, pipeline: str) -> list[Any]:
    """Registered versions of a pipeline's models."""
    return list(client.search_model_versions(f"name = '{registered_name(pipeline)}'"))


def name_best(client: Any, pipeline: str, key: str) -> None:
    """Give the alias of the best SFT model back to a version that was registered before."""
    for version in versions(client, pipeline):
        if version.tags.get("steel.key") == key:
            name = registered_name(pipeline)
            client.set_registered_model_alias(name, BEST_SFT, str(version.version))


def register(client: Any, name: str, model: Any, run_id: str, alias: str | None) -> str:
    """Make a logged model a version of a registered model, once, and give it an alias.

    Returns the version.
    """
    name = registered_name(name)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # `models:/…` would be looked up at MLflow's global address, which nothing here sets.
    source = model.artifact_location
    there = versions(client, name)
    version = next((v.version for v in there if v.source == source), None)
    if version is None:
        made = client.create_model_version(
            name,
            source,
            run_id=run_id,
            model_id=model.model_id,
            tags={k: v for k, v in model.tags.items() if k.startswith("steel.")},
            description=f"{model.name}: {model.tags.get('steel.folder', '')}",
        )
        version = made.version
        linked = json.loads(model.tags.get(VERSIONS, "[]"))
        linked.append({"name": name, "version": int(version)})
        client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps(linked)})
    if alias is not None:
        client.set_registered_model_alias(name, alias, str(version))
    return str(version)
