"""MLflow: runs as promised, metrics once and in order, and never in the way of the work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from model.train.run.folder import METRICS_FILE
from tasks.core.tracking import MODELS, PIPELINES, MetricMirror, Tracker, default_uri


@pytest.fixture
def tracker(store: Path) -> Tracker:
    return Tracker(
        store=store,
        pipeline="demo",
        pipeline_id="p1",
        flow_run_id="f1",
        config={"a": {"b": 1, "*": 2}},
        git_commit="abc",
    )


def write(path: Path, *records: tuple[int, dict[str, float]]) -> None:
    lines = [json.dumps({"step": s, "time": 1.0 + s, "metrics": m}) for s, m in records]
    path.write_text("".join(line + "\n" for line in lines))


def history(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracker.client.get_metric_history(run_id, name)]


def test_pipeline_has_a_parent_with_children_and_models_stand_flat(tracker: Tracker) -> None:
    with tracker.stage(
        "sft",
        label="zh",
        key="k1",
        folder=tracker.store,
        config={"lr": 2},
        inputs={"base": "k0"},
        trains=True,
    ) as track:
        track.counts({"tokens": 5})
    tracker.close("FINISHED")
    experiment = tracker.client.get_experiment_by_name(PIPELINES).experiment_id
    (parent,) = tracker.client.search_runs([experiment], "tags.`steel.role` = 'pipeline'")
    child = tracker.client.get_run(track.run_id)
    flat = tracker.client.get_run(track.model_run_id)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in flat.data.tags
    assert flat.info.experiment_id != child.info.experiment_id
    for run in (parent, child, flat):
        assert run.info.status == "FINISHED"
        assert run.data.tags["pipeline_id"] == "p1"
        assert run.data.tags["prefect.flow_run_id"] == "f1"
    assert flat.data.params["lr"] == "2"
    assert parent.data.params["a.b"] == "1"
    assert parent.data.params["a._"] == "2", "a name that MLflow would refuse"
    assert [(d.dataset.name, d.dataset.digest) for d in flat.inputs.dataset_inputs] == [
        ("base", "k0")
    ]


def test_a_pipeline_that_is_refused_or_makes_nothing_leaves_no_run(store: Path) -> None:
    for status in ("FAILED", "FINISHED"):
        one = Tracker(store=store, pipeline="demo", pipeline_id=status, config={"a": 1})
        one.reused("pack", "k1", {"stage": "pack", "key": "k1"})
        one.table("rows.json", [{"a": 1}])
        one.describe_results("| a |")
        one.close(status)
    assert MlflowClient(default_uri(store)).get_experiment_by_name(PIPELINES) is None


def test_failure_and_kill_are_told_apart(tracker: Tracker, tmp_path: Path) -> None:
    statuses = {}
    for kind in (ValueError, KeyboardInterrupt):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        with (
            pytest.raises(kind),
            tracker.stage(
                "pack", label="", key="k", folder=folder, config={}, inputs={}, trains=False
            ) as track,
        ):
            raise kind
        statuses[kind] = tracker.client.get_run(track.run_id).info.status
    assert statuses == {ValueError: "FAILED", KeyboardInterrupt: "KILLED"}


def test_mirror_sends_each_step_once_across_a_resume(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.client.create_run("0").info.run_id
    metrics, state = tmp_path / METRICS_FILE, tmp_path / "state" / "mirror.json"
    write(metrics, (1, {"loss": 3.0}), (2, {"loss": 2.0}), (3, {"loss": 1.5}))
    MetricMirror(tracker.client, run_id, metrics, state=state).copy()
    # Killed after step 3, resumed from a checkpoint at step 1: steps 2 and 3 are written again.
    write(
        metrics,
        (1, {"loss": 3.0}),
        (2, {"loss": 2.0, "validation": 9.0}),
        (3, {"loss": 1.5}),
        (4, {"loss": 1.2}),
    )
    with metrics.open("a") as file:
        file.write('{"step": 5, "ti')  # a line that is being written
    MetricMirror(tracker.client, run_id, metrics, state=state).copy()
    assert history(tracker, run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.2)]
    assert history(tracker, run_id, "validation") == [(2, 9.0)]


def test_mirror_notices_a_file_that_was_cut_back_and_grew_between_two_looks(
    tracker: Tracker, tmp_path: Path
) -> None:
    run_id = tracker.client.create_run("0").info.run_id
    metrics = tmp_path / METRICS_FILE
    mirror = MetricMirror(tracker.client, run_id, metrics, state=tmp_path / "state" / "mirror.json")
    mirror.copy()  # no file yet
    write(metrics, (1, {"loss": 3.0}), (2, {"loss": 2.0}))
    mirror.copy()
    write(metrics, (1, {"loss": 3.0}), (2, {"loss": 2.5}), (3, {"loss": 1.5}), (4, {"loss": 1.0}))
    mirror.copy()
    with metrics.open("a") as file:
        file.write(json.dumps({"step": 5, "time": 5.0, "metrics": {"loss": 0.5}}) + "\n")
    mirror.copy()
    expected = [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0), (5, 0.5)]
    assert history(tracker, run_id, "loss") == expected


def test_mirror_catches_up_after_an_outage(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = tracker.client.create_run("0").info.run_id
    metrics = tmp_path / METRICS_FILE
    write(metrics, (1, {"loss": 3.0}))
    mirror = MetricMirror(tracker.client, run_id, metrics, state=tmp_path / "s" / "mirror.json")
    with monkeypatch.context() as outage:
        outage.setattr(mirror, "client", MlflowClient("http://127.0.0.1:9"))
        outage.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        mirror.copy()
    write(metrics, (1, {"loss": 3.0}), (2, {"loss": 2.0}))
    mirror.copy()
    assert history(tracker, run_id, "loss") == [(1, 3.0), (2, 2.0)]


def test_work_goes_on_without_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(store=tmp_path, pipeline="demo", pipeline_id="p")
    with (
        tracker.stage(
            "pack", label="", key="k", folder=tmp_path, config={}, inputs={}, trains=True
        ) as track,
        track.follow(tmp_path / METRICS_FILE),
    ):
        track.counts({"tokens": 1})
        track.table("t.json", [{"a": 1}])
    tracker.close("FINISHED")


def test_run_of_a_killed_process_does_not_stay_running(store: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from tasks.core.tracking import Tracker; "
        f"Tracker(store=Path({str(store)!r}), pipeline='a', pipeline_id='a').opened(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    client = MlflowClient(default_uri(store))
    experiment = client.get_experiment_by_name(PIPELINES).experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "RUNNING"
    Tracker(store=store, pipeline="b", pipeline_id="b")
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_tracking_uri_is_recorded_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/x")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(store=tmp_path, pipeline="demo", pipeline_id="p")
    with tracker.stage(
        "pack", label="", key="k", folder=tmp_path, config={}, inputs={}, trains=False
    ) as track:
        pass
    assert track.identity()["tracking_uri"] == "http://127.0.0.1:9/x"
    assert MODELS != PIPELINES
