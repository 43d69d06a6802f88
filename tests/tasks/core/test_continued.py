"""A pipeline that is taken up again: its MLflow runs and its seconds go on."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tasks.core import lock
from tasks.core.lock import WorkedSeconds
from tasks.core.tracking import MODELS, PIPELINES, Tracker, default_uri

CODE = """
import os, signal, sys
from pathlib import Path
from tasks.core.tracking import Tracker
store = Path(sys.argv[1])
tracker = Tracker(
    store=store, pipeline="demo", pipeline_id="first", flow_run_id="f1", config={"a": 1}
)
with tracker.stage(
    "sft", label="zh", key="k1", folder=store, config={}, inputs={}, trains=True
) as track:
    track.counts({"tokens": 5})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose pipeline was killed in its first stage."""
    store = tmp_path_factory.mktemp("killed")
    assert subprocess.run([sys.executable, "-c", CODE, str(store)]).returncode == -9
    return store


def runs(store: Path, experiment: str, role: str = "") -> list[Run]:
    client = MlflowClient(default_uri(store))
    number = client.get_experiment_by_name(experiment).experiment_id
    found = client.search_runs([number], order_by=["attributes.start_time ASC"])
    return [run for run in found if not role or run.data.tags.get("steel.role") == role]


def go_on(store: Path, config: dict[str, Any], flow_run: str) -> None:
    tracker = Tracker(
        store=store, pipeline="demo", pipeline_id=flow_run, flow_run_id=flow_run, config=config
    )
    with tracker.stage(
        "sft", label="zh", key="k1", folder=store, config={}, inputs={}, trains=True
    ) as track:
        track.counts({"tokens": 7})
    tracker.close("FINISHED")


def test_a_pipeline_goes_on_in_its_runs_and_another_one_takes_its_stage_over(killed: Path) -> None:
    assert {run.info.status for run in runs(killed, PIPELINES)} == {"RUNNING"}
    go_on(killed, {"a": 1}, "f2")
    (parent,) = runs(killed, PIPELINES, "pipeline")
    (model,) = runs(killed, MODELS)
    (stage,) = [r for r in runs(killed, PIPELINES) if r.info.run_id != parent.info.run_id]
    for run in (parent, stage, model):
        assert run.info.status == "FINISHED"
        assert run.data.tags["pipeline_id"] == "first"
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["steel.flow_runs"] == "f1 f2"
    # Finished: the same pipeline once more is a run of its own, also in another process.
    MlflowClient(default_uri(killed)).set_tag(parent.info.run_id, "steel.started", "1")
    go_on(killed, {"a": 1}, "f3")
    first, second = runs(killed, PIPELINES, "pipeline")
    assert (first.info.run_id, second.info.status) == (parent.info.run_id, "FINISHED")
    # Another configuration is another pipeline; the stage that goes on stands below it.
    go_on(killed, {"a": 2}, "f4")
    *_, third = runs(killed, PIPELINES, "pipeline")
    moved = MlflowClient(default_uri(killed)).get_run(stage.info.run_id)
    assert moved.data.tags["mlflow.parentRunId"] == third.info.run_id
    assert len(runs(killed, MODELS)) == 1


def test_the_run_of_a_pipeline_that_lives_is_not_taken(store: Path) -> None:
    one = Tracker(store=store, pipeline="demo", pipeline_id="1", config={"a": 1})
    with one.stage("sft", label="", key="k1", folder=store, config={}, inputs={}, trains=False):
        other = Tracker(store=store, pipeline="demo", pipeline_id="2", config={"a": 1})
        elsewhere = store / "k2"
        elsewhere.mkdir()
        with other.stage(
            "sft", label="", key="k2", folder=elsewhere, config={}, inputs={}, trains=False
        ):
            assert one.run_id != other.run_id


def test_seconds_are_summed_over_sessions_and_a_damaged_file_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    path = tmp_path / "seconds.json"
    first = WorkedSeconds(path)
    now[0] += 100
    first.note(waited=30)  # and is killed
    second = WorkedSeconds(path)
    now[0] += 10
    assert second.total() == 80
    assert second.total(waited=4) == 76
    second.note()
    assert json.loads(path.read_text())["seconds"] == 80
    path.write_text("{")
    assert WorkedSeconds(path).before == 0
