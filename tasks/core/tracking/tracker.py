"""The runs of one pipeline in MLflow."""

import contextlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
from mlflow.tracking import MlflowClient

from tasks.core.tracking.client import (
    MODELS,
    PIPELINES,
    SPEED,
    default_uri,
    log_metrics,
    never_fail,
)
from tasks.core.tracking.stage_track import MAX_TAG, StageTrack

NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
"""Characters that MLflow takes in no parameter's name (`max_drop.*`)."""
MAX_PARAM = 500
"""Characters of a parameter's value; longer ones are cut (the config artifact has them whole)."""


class Tracker:
    """The runs of one pipeline in MLflow."""

    def __init__(
        self,
        *,
        store: Path,
        pipeline: str,
        pipeline_id: str,
        flow_run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        git_commit: str | None = None,
    ) -> None:
        self.store, self.pipeline, self.pipeline_id = store, pipeline, pipeline_id
        self.flow_run_id, self.git_commit = flow_run_id, git_commit
        self.uri = default_uri(store)
        self.run_id: str | None = None
        self.stages: list[dict[str, Any]] = []
        self._open(dict(config or {}))

    @never_fail
    def _open(self, config: dict[str, Any]) -> None:
        if self.uri.startswith("sqlite:///"):
            (self.store / "mlflow").mkdir(parents=True, exist_ok=True)
        # MLflow's and its database migration's chatter would bury the pipeline's own lines.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.client = MlflowClient(tracking_uri=self.uri)
        self._end_orphans()
        self.run_id = self._create(PIPELINES, self.pipeline, {"steel.role": "pipeline"})
        self._params(self.run_id, config)
        self.client.log_dict(self.run_id, config, "config.json")

    def _experiment(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = None
        if self.uri.startswith("sqlite:///"):
            location = (self.store / "mlflow" / "artifacts" / name).resolve().as_uri()
        with contextlib.suppress(mlflow.MlflowException):  # another process may have been faster
            return str(self.client.create_experiment(name, artifact_location=location))
        return str(self.client.get_experiment_by_name(name).experiment_id)

    def _create(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        own = {
            "pipeline_id": self.pipeline_id,
            "prefect.flow_run_id": self.flow_run_id or "",
            "git_commit": self.git_commit or "",
            "steel.host": socket.gethostname(),
            "steel.pid": str(os.getpid()),
        }
        run = self.client.create_run(
            self._experiment(experiment), run_name=name, tags={**own, **tags}
        )
        return str(run.info.run_id)

    def _end_orphans(self) -> None:
        """Runs whose process on this machine is gone were killed: say so instead of RUNNING."""
        for name in (PIPELINES, MODELS, SPEED):
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                continue
            for run in self.client.search_runs(
                [experiment.experiment_id],
                f"attributes.status = 'RUNNING' AND tags.`steel.host` = '{socket.gethostname()}'",
            ):
                pid = run.data.tags.get("steel.pid", "")
                if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                    self.client.set_terminated(run.info.run_id, "KILLED")

    @contextlib.contextmanager
    def stage(
        self,
        name: str,
        *,
        label: str,
        key: str,
        folder: Path,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        trains: bool,
        measures: bool = False,
    ) -> Iterator[StageTrack]:
        """The runs of one stage, ended as FINISHED, FAILED or KILLED by how the block ends."""
        track = StageTrack(tracker=self, folder=folder)
        started = time.time()
        compared_in = MODELS if trains else SPEED if measures else None
        self._begin(track, name, label, key, config, inputs, compared_in)
        status = "KILLED"
        try:
            yield track
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._end(track, status)
            self.stages.append(
                {
                    "stage": f"{name} {label}".strip(),
                    "key": key,
                    "status": status,
                    "seconds": round(time.time() - started, 1),
                }
            )

    @never_fail
    def _begin(
        self,
        track: StageTrack,
        name: str,
        label: str,
        key: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        compared_in: str | None,
    ) -> None:
        memory = track.folder / ".scratch" / "mlflow.json"
        memory.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            remembered = json.loads(memory.read_text())
            if remembered.get("tracking_uri") == self.uri:
                # An interrupted stage continues in the runs that it began.
                track.run_id, track.model_run_id = remembered["stage"], remembered["model"]
                for run_id in filter(None, (track.run_id, track.model_run_id)):
                    self.client.update_run(run_id, status="RUNNING")
                    self.client.set_tag(run_id, "steel.pid", str(os.getpid()))
                return
        title = f"{name} {label}".strip()
        tags = {"steel.stage": name, "steel.key": key, "steel.label": label}
        parent = {"mlflow.parentRunId": self.run_id} if self.run_id else {}
        track.run_id = self._create(PIPELINES, title, {**tags, **parent})
        if compared_in:
            role = {"steel.role": "model" if compared_in == MODELS else "speed"}
            track.model_run_id = self._create(compared_in, title, {**tags, **role})
        for run_id in filter(None, (track.run_id, track.model_run_id)):
            self._params(run_id, config)
            self._datasets(run_id, inputs)
        memory.write_text(
            json.dumps(
                {"tracking_uri": self.uri, "stage": track.run_id, "model": track.model_run_id}
            )
        )

    @never_fail
    def _end(self, track: StageTrack, status: str) -> None:
        for run_id in filter(None, (track.run_id, track.model_run_id)):
            self.client.set_terminated(run_id, status)

    def reused(self, title: str, key: str, manifest: Mapping[str, Any]) -> None:
        """Note in the pipeline that a stage stood finished already, and which run made it."""
        self.stages.append(
            {
                "stage": title,
                "key": key,
                "status": "reused",
                "seconds": 0.0,
                "mlflow_run": (manifest.get("mlflow") or {}).get("stage_run"),
            }
        )

    @never_fail
    def scores(self, model: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Evaluation figures, into the flat run of the model (`model` is its stage manifest)."""
        run_id = (model.get("mlflow") or {}).get("model_run")
        if run_id:
            log_metrics(self.client, run_id, metrics)

    @never_fail
    def close(self, status: str, metrics: Mapping[str, float] | None = None) -> None:
        """End the pipeline's run with the table of its stages."""
        if self.run_id is None:
            return
        if self.stages:
            columns = ("stage", "status", "seconds", "key", "mlflow_run")
            table = {c: [row.get(c) for row in self.stages] for c in columns}
            self.client.log_table(self.run_id, table, "stages.json")
        log_metrics(self.client, self.run_id, metrics or {})
        self.client.set_terminated(self.run_id, status)

    def _params(self, run_id: str, config: Mapping[str, Any]) -> None:
        params = [
            Param(NOT_IN_NAMES.sub("_", k), str(v)[:MAX_PARAM])
            for k, v in _flat(config)
            if str(v) != ""
        ]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])
        self.client.log_batch(run_id, tags=[RunTag("steel.config", json.dumps(config)[:MAX_TAG])])

    def _datasets(self, run_id: str, inputs: Mapping[str, Any]) -> None:
        """The stage's inputs as MLflow data sets: name of the input, digest = its stage key."""
        pairs = [(name, key) for name, key in _flat(inputs) if isinstance(key, str)]
        datasets = [
            DatasetInput(
                Dataset(
                    name=name, digest=key, source_type="local", source=json.dumps({"key": key})
                ),
                [InputTag("mlflow.data.context", "input")],
            )
            for name, key in pairs
        ]
        if datasets:
            self.client.log_inputs(run_id, datasets=datasets)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
