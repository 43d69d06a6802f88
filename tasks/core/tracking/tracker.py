"""The runs of one pipeline in MLflow."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow

from common.processes import uninterrupted
from common.redaction import redact, redacted
from common.urls import HIDDEN
from tasks.core.tracking.client import (
    MODELS,
    NOTE,
    PIPELINES,
    SPEED,
    Client,
    artifact_location,
    default_uri,
    never_fail,
)
from tasks.core.tracking.continued import SAME, continued, same_pipeline
from tasks.core.tracking.killed import end_killed_runs, this_process
from tasks.core.tracking.models.colours import PLACE, colour, one_at_a_time, place_of
from tasks.core.tracking.models.shown import ShownModels
from tasks.core.tracking.models.view import experiment_tags
from tasks.core.tracking.outcome import ended_by_outcome
from tasks.core.tracking.parameters import log_config, log_inputs, telling_name
from tasks.core.tracking.stage_track import StageTrack
from tasks.core.tracking.unsent import keep_stage, missing_names, send, stage_tags

log = logging.getLogger("steel.tracking")
MAX_NOTE = 5000
"""Characters of a description."""


class Tracker:
    """The runs of one pipeline in MLflow.

    The pipeline's own run is made with its first stage: one that is refused, or has nothing to do,
    leaves none.
    """

    def __init__(
        self,
        *,
        store: Path,
        pipeline: str,
        pipeline_id: str,
        flow_run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        git_commit: str | None = None,
        parent_run: str | None = None,
    ) -> None:
        self.store, self.pipeline, self.pipeline_id = store, pipeline, pipeline_id
        self.flow_run_id, self.git_commit = flow_run_id, git_commit
        self.uri = default_uri(store)
        self.client = Client(self.uri)
        self.config: dict[str, Any] = redacted(dict(config or {}))
        self.run_id: str | None = None
        self.parent_run = parent_run
        """Run that this pipeline's run stands below; None: it stands alone."""
        self.incomplete = False
        self.stages: list[dict[str, Any]] = []
        self.models = ShownModels(self)
        """Those that this pipeline made, found or scored."""
        self._experiments: dict[str, str] = {}
        self._prepare()

    @property
    def shown_uri(self) -> str:
        """The tracking URI without the user and password it may carry."""
        return redact(self.uri).replace(f"{HIDDEN}@", "")

    @never_fail
    def _prepare(self) -> None:
        if self.uri.startswith("sqlite:///"):
            (self.store / "mlflow").mkdir(parents=True, exist_ok=True)
        # MLflow's and its database migration's chatter would bury the pipeline's own lines.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # of each attempt at a server
        end_killed_runs(self.client)
        self._catch_up()

    def opened(self) -> str | None:
        """Id of the pipeline's own run, which is made now if it is not there; None without
        MLflow."""
        if self.run_id is None:
            with uninterrupted():  # a run that is made and not known would never be ended
                self._open()
        return self.run_id

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """The pipeline's own run, ended as FINISHED, FAILED or KILLED by how the block ends."""
        with ended_by_outcome(lambda: None, self.close):
            yield

    @never_fail
    def _open(self) -> None:
        self.run_id = continued(self, this_process())
        if self.run_id is not None:
            return
        nested = {"mlflow.parentRunId": self.parent_run} if self.parent_run else {}
        tags = {"steel.role": "pipeline", SAME: same_pipeline(self), **nested}
        title = self.pipeline if self.parent_run else f"{self.pipeline} {time.strftime('%F %R')}"
        self.run_id = self.create_run(PIPELINES, title, tags)
        log_config(self.client, self.run_id, self.config)
        self.client.log_dict(self.run_id, self.config, "config.json")

    @never_fail
    def _catch_up(self) -> None:
        """Record what an outage has left, now that MLflow answers."""
        if not self.client.away and (num := send(self)):
            log.warning("MLflow has the %d records now that it lacked", num)

    def experiment(self, name: str) -> str:
        """Id of an experiment, which is made if it is not there."""
        if name not in self._experiments:
            self._experiments[name] = self._find_experiment(name)
        return self._experiments[name]

    def _find_experiment(self, name: str) -> str:
        tags = experiment_tags(name)
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = artifact_location(self.uri, self.store, name)
            with contextlib.suppress(mlflow.MlflowException):  # another process may be faster
                return str(
                    self.client.create_experiment(name, artifact_location=location, tags=tags)
                )
            experiment = self.client.get_experiment_by_name(name)
        for key in tags.keys() - experiment.tags.keys():
            self.client.set_experiment_tag(experiment.experiment_id, key, tags[key])
        return str(experiment.experiment_id)

    def create_run(
        self, experiment: str, name: str, tags: Mapping[str, str], begun: int | None = None
    ) -> str:
        """Create a run; returns its id. `begun`: milliseconds since 1970, default: now."""
        own = {
            "pipeline_id": self.pipeline_id,
            "prefect.flow_run_id": self.flow_run_id or "",
            "git_commit": self.git_commit or "",
            "steel.host": socket.gethostname(),
            **this_process(),
        }
        run = self.client.create_run(
            self.experiment(experiment),
            start_time=begun,
            run_name=redact(name),
            tags=redacted({k: v for k, v in {**own, **tags}.items() if v}),
        )
        return str(run.info.run_id)

    def create_compared_run(
        self,
        experiment: str,
        title: str,
        key: str,
        tags: Mapping[str, str],
        config: Mapping[str, Any],
        begun: int | None = None,
    ) -> str:
        """Create a flat run beside others: its name, colour and place are nobody else's."""
        number = self.experiment(experiment)
        with one_at_a_time(self.store / "mlflow"):
            place = place_of(self.client, number, key)
            name = telling_name(self.client, number, title, key, config)
            own = {PLACE: str(place), "mlflow.runColor": colour(place)}
            return self.create_run(experiment, name, {**tags, **own}, begun)

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
        track = StageTrack(tracker=self, folder=folder, trains=trains)
        started = time.time()
        compared_in = MODELS if trains else SPEED if measures else None

        def begin() -> None:
            self.opened()
            self.incomplete = False
            self._begin(track, name, label, key, config, inputs, compared_in)
            track.incomplete = self.incomplete

        def end(status: str) -> None:
            status = "FINISHED" if track.finished else status
            self._end(track, status)
            if track.incomplete and status == "FINISHED":
                self._keep(track, name, label, key, config, inputs, compared_in, started)
            self._catch_up()
            self.stages.append(
                {
                    "stage": f"{name} {label}".strip(),
                    "key": key,
                    "status": status,
                    "seconds": round(time.time() - started, 1),
                }
            )

        with ended_by_outcome(begin, end):
            yield track

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
            if remembered.get("tracking_uri") == self.shown_uri:
                # An interrupted stage continues in the runs that it began.
                track.run_id, track.model_run_id = remembered["stage"], remembered["model"]
                if self.run_id and track.run_id:
                    self.client.set_tag(track.run_id, "mlflow.parentRunId", self.run_id)
                for run_id in track.runs:
                    self.client.update_run(run_id, status="RUNNING")
                    for name, value in this_process().items():
                        self.client.set_tag(run_id, name, value)
                if compared_in == MODELS and track.model_run_id:
                    self.models.add(key, track.model_run_id)
                return
        title = f"{name} {label}".strip()
        tags = stage_tags(name, key, label)
        roles = self._roles(compared_in)
        track.run_id = self.create_run(PIPELINES, title, {**tags, **roles[PIPELINES]})
        if compared_in:
            track.model_run_id = self.create_compared_run(
                compared_in, title, key, {**tags, **roles[compared_in]}, config
            )
        for run_id in track.runs:
            self.describe(run_id, config, inputs)
        if compared_in == MODELS and track.model_run_id:
            self.models.add(key, track.model_run_id)
        memory.write_text(
            json.dumps(
                {"tracking_uri": self.shown_uri, "stage": track.run_id, "model": track.model_run_id}
            )
        )

    def _roles(self, compared_in: str | None) -> dict[str, dict[str, str]]:
        """Tags of a stage's runs by the experiment that they stand in."""
        roles = {PIPELINES: {"mlflow.parentRunId": self.run_id} if self.run_id else {}}
        if compared_in:
            roles[compared_in] = {"steel.role": "model" if compared_in == MODELS else "speed"}
        return roles

    def describe(self, run_id: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Log a stage's parameters and inputs."""
        log_config(self.client, run_id, config)
        log_inputs(self.client, run_id, inputs)

    def _end(self, track: StageTrack, status: str) -> None:
        track.end(status)
        if track.run_id is None:
            track.incomplete = True

    @never_fail
    def _keep(
        self,
        track: StageTrack,
        name: str,
        label: str,
        key: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        compared_in: str | None,
        started: float,
    ) -> None:
        """Keep what MLflow did not take of a finished stage."""
        runs = {PIPELINES: track.run_id, compared_in or "": track.model_run_id}
        keep_stage(
            self.store,
            {
                "stage": name,
                "title": f"{name} {label}".strip(),
                "key": key,
                "tags": stage_tags(name, key, label),
                "experiments": self._roles(compared_in),
                "tracking_uri": self.shown_uri,
                "runs": {experiment: run for experiment, run in runs.items() if run},
                "config": dict(config),
                "inputs": dict(inputs),
                "metrics": track.metrics,
                "sent": track.sent,
                "status": "FINISHED",
                "started": started,
                "ended": time.time(),
            },
        )

    def reused(self, title: str, key: str, manifest: Mapping[str, Any]) -> None:
        """Note in the pipeline that a stage stood finished already, and which run made it."""
        self.models.found(manifest)
        self.stages.append(
            {
                "stage": title,
                "key": key,
                "status": "reused",
                "seconds": 0.0,
                "mlflow_run": (manifest.get("mlflow") or {}).get("stage_run"),
            }
        )

    def scores(self, model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
        """Figures of an evaluation, into the flat run of the model. Both are stages' manifests."""
        self.models.scores(model, evaluation)

    @never_fail
    def show(self, path: Path) -> None:
        """Keep a file as an artifact of the pipeline's own run, beside its stages."""
        if self.run_id is not None:
            self.client.log_artifact(self.run_id, str(path))

    @never_fail
    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Rows as a table artifact of the pipeline's own run."""
        if self.run_id is not None and rows:
            columns = redacted({key: [row.get(key) for row in rows] for key in rows[0]})
            self.client.log_table(self.run_id, columns, name)

    @never_fail
    def describe_results(self, text: str, pictures: Sequence[Path] = ()) -> None:
        """A table of results, in Markdown, and pictures as the pipeline's description."""
        if self.run_id is None:
            return
        for path in pictures:
            self.client.log_artifact(self.run_id, str(path))
            address = f"get-artifact?path={path.name}&run_uuid={self.run_id}"
            text += f"\n\n![{path.stem}]({address})"
        self.client.set_tag(self.run_id, NOTE, redact(text)[:MAX_NOTE])

    def close(self, status: str) -> None:
        """End the pipeline's run with the table of its stages; say what MLflow lacks."""
        self._catch_up()
        if not self.client.away:
            self.models.close()
        self._close(status)
        if missing := list(missing_names(self.store)):
            log.warning(
                "MLflow at %s lacks: %s. Nothing else is lost: results are in the store. When it "
                "answers again, run the same command: finished stages are skipped, and their "
                "parameters, numbers and curves are recorded (tables and pictures stand in their "
                "folders).",
                self.shown_uri,
                ", ".join(missing),
            )

    @never_fail
    def _close(self, status: str) -> None:
        if self.run_id is None and status == "FINISHED" and self.stages:
            # Everything was finished, perhaps by a run that was killed before it could say so.
            self.run_id = continued(self, this_process())
        if self.run_id is None:
            return
        if self.stages:
            columns = ("stage", "status", "seconds", "key", "mlflow_run")
            table = {c: [row.get(c) for row in self.stages] for c in columns}
            self.client.log_table(self.run_id, table, "stages.json")
        self.client.set_terminated(self.run_id, status)
