"""MLflow, and the only module that imports it.

    experiment `steel`         one parent run per pipeline ── a child run per stage
    experiment `steel-models`  flat: one run per trained model (base, each SFT mixture, DPO),
                               joined by the tag `pipeline_id`, so that the comparison page charts
                               them (nested children would be collapsed there)
    experiment `steel-speed`   flat likewise: one run per measured configuration of kernels

Work never waits for, nor dies of, a tracker: a call that fails is logged once and the rest goes
on. Metrics by step come from the trainer's metrics.jsonl; `MetricMirror` copies that file into
MLflow in order and once, also after an outage or a restart.
"""

import contextlib
import functools
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

PIPELINES = "steel"
MODELS = "steel-models"
SPEED = "steel-speed"
MAX_TAG = 5000
"""Characters of a tag's value; MLflow refuses longer ones."""

NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
"""Characters that MLflow takes in no parameter's name (`max_drop.*`)."""
MAX_PARAM = 500
"""Characters of a parameter's value; longer ones are cut (the config artifact has them whole)."""
BATCH = 900
"""Metrics a request; MLflow takes at most 1,000."""

log = logging.getLogger("steel.tracking")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def _harmless(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
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


@dataclass(kw_only=True)
class StageTrack:
    """The MLflow side of one stage: its child run and, where it trains or measures, a flat run."""

    tracker: "Tracker"
    run_id: str | None = None
    model_run_id: str | None = None
    folder: Path
    _mirrors: list["MetricMirror"] = field(default_factory=list)

    def identity(self) -> dict[str, str | None]:
        """What the manifest records."""
        return {
            "tracking_uri": _without_secret(self.tracker.uri),
            "stage_run": self.run_id,
            "model_run": self.model_run_id,
        }

    @_harmless
    def counts(self, counts: Mapping[str, float]) -> None:
        """Numbers of the finished stage, as metrics of its run."""
        for run_id in filter(None, (self.run_id, self.model_run_id)):
            self.tracker.log_metrics(run_id, {f"stage/{k}": float(v) for k, v in counts.items()})

    @_harmless
    def tags(self, tags: Mapping[str, str]) -> None:
        """What became known while the stage ran, as tags `steel.<name>` of its runs."""
        for run_id in filter(None, (self.run_id, self.model_run_id)):
            for name, value in tags.items():
                self.tracker.client.set_tag(run_id, f"steel.{name}", value[:MAX_TAG])

    @_harmless
    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Rows as an MLflow table artifact."""
        if self.run_id and rows:
            columns = {key: [row.get(key) for row in rows] for key in rows[0]}
            self.tracker.client.log_table(self.run_id, columns, name)

    @_harmless
    def text(self, name: str, text: str) -> None:
        """Text as an artifact."""
        if self.run_id:
            self.tracker.client.log_text(self.run_id, text, name)

    @_harmless
    def artifact(self, path: Path, into: str | None = None) -> None:
        """A file as an artifact."""
        for run_id in filter(None, (self.run_id, self.model_run_id)):
            self.tracker.client.log_artifact(run_id, str(path), into)

    @_harmless
    def manifest(self, manifest: dict[str, Any]) -> None:
        """The stage's manifest as an artifact."""
        if self.run_id:
            self.tracker.client.log_dict(self.run_id, manifest, "manifest.json")

    @contextlib.contextmanager
    def follow(self, metrics: Path) -> Iterator[None]:
        """Mirror a growing metrics.jsonl into MLflow while the block runs."""
        run_id = self.model_run_id or self.run_id
        if run_id is None:
            yield
            return
        mirror = MetricMirror(
            self.tracker, run_id, metrics, state=self.folder / ".scratch" / "mirror.json"
        )
        mirror.start()
        try:
            yield
        finally:
            mirror.stop()


class MetricMirror:
    """Copies metrics.jsonl into an MLflow run, from a thread, every few seconds.

    What was sent is remembered per metric (its highest step), because a resumed training cuts its
    file back to the checkpoint and writes the same steps again.
    """

    SECONDS = 5.0

    def __init__(self, tracker: "Tracker", run_id: str, metrics: Path, *, state: Path) -> None:
        self.tracker, self.run_id, self.metrics, self.state = tracker, run_id, metrics, state
        self.sent: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self.sent = json.loads(state.read_text())
        self._position, self._last_line = 0, b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="metric-mirror")

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def stop(self) -> None:
        """Copy what is left and end."""
        self._stop.set()
        self._thread.join()
        self.copy()

    def _loop(self) -> None:
        while not self._stop.wait(self.SECONDS):
            self.copy()

    @_harmless
    def copy(self) -> None:
        """Send every complete line that was not sent before."""
        new = self._new_lines()
        batch: list[Metric] = []
        sent = dict(self.sent)
        for line in new.splitlines():
            record = json.loads(line)
            step, millis = int(record["step"]), int(record["time"] * 1000)
            for name, value in record["metrics"].items():
                if step > sent.get(name, -1):
                    sent[name] = step
                    batch.append(Metric(name, float(value), millis, step))
        for start in range(0, len(batch), BATCH):
            self.tracker.client.log_batch(self.run_id, metrics=batch[start : start + BATCH])
        if batch:
            self.sent = sent
            self.state.parent.mkdir(exist_ok=True)
            aside = self.state.with_suffix(".tmp")
            aside.write_text(json.dumps(sent))
            aside.replace(self.state)
        if new:
            self._position += len(new)
            self._last_line = new.splitlines(keepends=True)[-1]

    def _new_lines(self) -> bytes:
        """Whole lines since the last look: all of them when the file was cut back meanwhile, which
        shows in the line before the remembered position (each has its time)."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(self._position - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    self._position, self._last_line = 0, b""
                    file.seek(0)
                content = file.read()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]


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

    @_harmless
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

    @_harmless
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

    @_harmless
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

    @_harmless
    def scores(self, model: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Evaluation figures, into the flat run of the model (`model` is its stage manifest)."""
        run_id = (model.get("mlflow") or {}).get("model_run")
        if run_id:
            self.log_metrics(run_id, metrics)

    @_harmless
    def close(self, status: str, metrics: Mapping[str, float] | None = None) -> None:
        """End the pipeline's run with the table of its stages."""
        if self.run_id is None:
            return
        if self.stages:
            columns = ("stage", "status", "seconds", "key", "mlflow_run")
            table = {c: [row.get(c) for row in self.stages] for c in columns}
            self.client.log_table(self.run_id, table, "stages.json")
        self.log_metrics(self.run_id, metrics or {})
        self.client.set_terminated(self.run_id, status)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Single values, in one request."""
        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
        if batch:
            self.client.log_batch(run_id, metrics=batch)

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


def _without_secret(uri: str) -> str:
    """A tracking URI without the user and password it may carry."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
