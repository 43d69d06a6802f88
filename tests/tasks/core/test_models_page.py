"""MLflow's page of models: what is charted, once; names and colours that tell models apart."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from model.train.run.folder import METRICS_FILE
from tasks.core.tracking import MODELS, PIPELINES, MetricMirror, Tracker, default_uri
from tasks.core.tracking.models import colours, view
from tasks.core.tracking.models.scores import figures
from tasks.core.tracking.names import charted
from tests.tasks.core import recorded


class Book:
    """A store whose MLflow has the models of one pipeline."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.tracker, self.manifests = recorded.record(store)
        self.client = MlflowClient(default_uri(store))
        self.tags = self.client.get_experiment_by_name(MODELS).tags

    def runs(self, experiment: str) -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        order = ["attributes.start_time ASC"]
        return list(self.client.search_runs([found.experiment_id], order_by=order))

    def model(self, key: str) -> Run:
        return next(r for r in self.runs(MODELS) if r.data.tags["steel.key"] == key)

    def history(self, run: Run, name: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run.info.run_id, name)
        return [(m.step, round(m.value, 6)) for m in history]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Book:
    store = tmp_path_factory.mktemp("book") / "store"
    (store / "mlflow").mkdir(parents=True)
    shutil.copy(empty_mlflow, store / "mlflow" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Book(store)


def test_lines_become_metrics_whose_sections_sort_and_that_say_something() -> None:
    first, second, *_ = recorded.lines()
    assert charted(first["metrics"]) == {
        "train/loss": 4.0,
        "train_by_source/loss_skypile": 4.1,
        "data/tokens": 256.0,
        "perf/tokens_per_second": 1001.0,
        "perf/checkpoint_stall_seconds": 0.0,
    }
    assert charted(second["metrics"])["validation_by_source/loss_skypile"] == 2.3
    # Names that only look like a source's.
    assert charted({"train/logp_chosen": 1.0}) == {"train/logp_chosen": 1.0}
    both = {"validation/loss": 2.0, "validation/loss_mean_routing": 2.5}
    assert charted(both) == both


def test_counters_are_left_out_while_they_are_zero(book: Book, tmp_path: Path) -> None:
    run = book.client.create_run("0")
    path, name = tmp_path / METRICS_FILE, "health/skipped_steps"
    values = (0, 0, 0, 0, 2, 0)
    rows = [{"step": s, "time": 1.0 + s, "metrics": {name: v}} for s, v in enumerate(values)]
    state = tmp_path / "s" / "mirror.json"
    mirror = MetricMirror(book.client, run.info.run_id, path, state=state)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    mirror.copy()
    assert book.history(run, name) == []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mirror.copy()
    assert book.history(run, name) == [(0, 0.0), (3, 0.0), (4, 2.0), (5, 0.0)]


def test_models_have_curves_by_tokens_and_numbers_stand_once(book: Book) -> None:
    base = book.model("k-base")
    assert book.history(base, "train/loss") == [(1, 4.0), (2, 2.0), (3, 1.333333), (4, 1.0)]
    assert book.history(base, "validation/tokens") == [(2, 512.0), (4, 1024.0)]
    assert book.history(base, "accuracy/ceval") == [(0, 0.26)]
    low, middle, high = book.history(book.model("k-zh"), "interval_95/ceval")
    assert [point[1] for point in (low, middle, high)] == [0.34, 0.4, 0.46]
    assert low[0] == high[0], "above each other"
    assert base.data.metrics["cost/hours"] == pytest.approx(3 / 3600)
    zeros = {name for name, value in base.data.metrics.items() if not value}
    assert not zeros
    of_stages = {name for run in book.runs(PIPELINES) for name in run.data.metrics}
    assert not of_stages, "counts are tables there"
    stage = next(r for r in book.runs(PIPELINES) if r.data.tags.get("steel.key") == "k-base")
    path = book.client.download_artifacts(stage.info.run_id, "counts.json")
    assert dict(json.loads(Path(path).read_text())["data"])["steps"] == 4


def test_evaluating_again_adds_nothing(book: Book) -> None:
    before = book.history(book.model("k-zh"), "interval_95/ceval")
    manifest = next(m for m in book.manifests if m["key"] == "k-zh")
    again = Tracker(store=book.store, pipeline="demo", pipeline_id="p2")
    again.reused("sft zh", "k-zh", manifest)
    again.scores(manifest, recorded.evaluation(0.40))
    again.close("FINISHED")
    assert book.history(book.model("k-zh"), "interval_95/ceval") == before
    parents = [r for r in book.runs(PIPELINES) if r.data.tags.get("steel.role") == "pipeline"]
    assert len(parents) == 1, "nothing was made, so there is no second run"


def test_parameters_are_what_was_settled_on(book: Book) -> None:
    params = book.model("k-base").data.params
    assert params["precision"] == "float32" and params["steps"] == "4"
    assert params["num_parameters"] == "2214786" and params["tokens"] == "1024"
    assert params["share.skypile"] == "61.0 %" and params["seed"] == "7"
    assert "auto" not in params.values()


def test_names_colours_and_places_are_each_models_own(book: Book, tmp_path: Path) -> None:
    store = tmp_path / "other"
    shutil.copytree(book.store / "mlflow", store / "mlflow")
    tracker = Tracker(store=store, pipeline="demo", pipeline_id="p3")
    recorded.train(tracker, "pretrain", "demo", "k-slow", learning_rate=1e-3)
    recorded.train(tracker, "pretrain", "demo", "k-same")
    tracker.close("FINISHED")
    client = MlflowClient(default_uri(store))
    number = client.get_experiment_by_name(MODELS).experiment_id
    runs = {run.data.tags["steel.key"]: run for run in client.search_runs([number])}
    names = {key: run.info.run_name for key, run in runs.items()}
    assert names["k-base"] == "pretrain demo"
    assert names["k-slow"] == "pretrain demo, learning_rate 0.001"
    assert names["k-same"] == "pretrain demo, other data k-sa"
    assert len({run.data.tags["mlflow.runColor"] for run in runs.values()}) == len(runs) == 6
    assert len({run.data.tags[colours.PLACE] for run in runs.values()}) == len(runs)


def test_colours_stay_apart() -> None:
    many = [colours.colour(place) for place in range(60)]
    assert len(set(many)) == 60 and all(len(one) == 7 for one in many)


def test_kept_checkpoints_are_logged_models_and_versions_have_aliases(book: Book) -> None:
    base = book.model("k-base")
    found = book.client.search_logged_models([base.info.experiment_id])
    steps = sorted(int(m.tags["steel.step"]) for m in found if m.tags["steel.key"] == "k-base")
    assert steps == [2, 4] and len(found) == 8
    final = next(m for m in found if m.tags["steel.key"] == "k-zh-en" and m.params["step"] == "4")
    assert final.source_run_id == book.model("k-zh-en").info.run_id
    assert final.tags["steel.folder"].endswith("sft/k-zh-en/model")
    linked = {(m.key, m.value, m.dataset_name, m.dataset_digest) for m in final.metrics}
    assert ("accuracy/ceval", 0.45, "ceval", "k-ceval") in linked
    assert ("train/loss", 1.0, "packed", "k-packed") in linked
    files = {file.path for file in book.client.list_logged_model_artifacts(final.model_id)}
    assert files == {"config.json", "place.json"}, "weights stay in the store"
    keys = {}
    for alias in ("base", "best-sft", "dpo"):
        version = book.client.get_model_version_by_alias("demo", alias)
        keys[alias] = version.tags["steel.key"]
    assert keys == {"base": "k-base", "best-sft": "k-zh-en", "dpo": "k-dpo"}
    assert len(book.client.search_model_versions("name = 'demo'")) == 4


def test_weights_are_copied_where_that_is_asked_for(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEEL_MLFLOW_WEIGHTS", "copy")
    tracker = Tracker(store=store, pipeline="demo", pipeline_id="p1")
    recorded.train(tracker, "sft", "zh", "k1")
    client = MlflowClient(default_uri(store))
    number = client.get_experiment_by_name(MODELS).experiment_id
    (final,) = client.search_logged_models([number], "tags.`steel.final` = 'true'")
    files = {f.path for f in client.list_logged_model_artifacts(final.model_id, "weights")}
    assert "weights/model.safetensors" in files


def test_a_store_whose_models_another_mlflow_has_is_made_up_for(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    shutil.copy(book.store / "mlflow" / "mlflow.db", tmp_path / "unused.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "files"))
    tracker = Tracker(store=book.store, pipeline="demo", pipeline_id="p4")
    for manifest in book.manifests[:2]:
        tracker.reused(manifest["stage"], manifest["key"], manifest)
        tracker.scores(manifest, recorded.evaluation(0.5))
    tracker.close("FINISHED")
    client = MlflowClient(other)
    number = client.get_experiment_by_name(MODELS).experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([number])}
    assert set(runs) == {"pretrain demo", "sft zh"}
    assert runs["sft zh"].data.metrics["train/loss"] == 1.0
    assert runs["sft zh"].data.metrics["accuracy/ceval"] == 0.5
    assert runs["sft zh"].data.params["precision"] == "float32"
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_the_link_opens_a_saved_view_with_the_charts_in_order(book: Book) -> None:
    links = view.experiment_links(default_uri(book.store), "demo")
    assert "viewStateShareKey=demo&" in links[MODELS]
    assert "workflowType=machine_learning&compareRunsMode=CHART" in links[MODELS]
    assert book.tags["mlflow.experimentKind"] == "custom_model_development"
    for name in ("demo", view.ALL):
        saved = json.loads(book.tags[f"{view.SAVED_VIEW}{name}"])
        assert saved["createdAt"] <= saved["updatedAt"]
        state: dict[str, Any] = json.loads(saved["state"])
        order = [(card["type"], card["metricKey"]) for card in state["compareRunCharts"][:6]]
        assert order == [
            ("BAR", "accuracy/ceval"),
            ("BAR", "accuracy/mmlu"),
            ("LINE", "interval_95/ceval"),
            ("LINE", "interval_95/mmlu"),
            ("LINE", "train/loss"),
            ("LINE", "validation/loss"),
        ]
        known = {section["uuid"] for section in state["compareRunSections"]}
        assert {card["metricSectionId"] for card in state["compareRunCharts"]} <= known
        ids = [run.info.run_id for run in book.runs(MODELS)[:4]]
        assert (name == view.ALL) != all(run_id in state["searchFilter"] for run_id in ids)


def test_the_link_of_an_older_run_keeps_its_models(
    tmp_path: Path, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = book.client.get_experiment_by_name(MODELS).experiment_id
    runs = [book.client.create_run(experiment).info.run_id for _ in range(3)]
    for run in runs:
        book.client.log_metric(run, "train/loss", 2.0)
    uri = default_uri(book.store)

    def finish(*models: str) -> str:
        """End a run of the pipeline; returns the link that it prints."""
        view.save_view(book.client, "mine", "mine: models of the last run", models)
        view.save_view_of_runs(book.client, "Mine", models)
        own = view.view_of_runs("Mine", models)
        return view.experiment_links(uri, own, "mine")[MODELS]

    def shown(link: str) -> str:
        """The filter of the view that a link opens."""
        (name,) = re.findall("viewStateShareKey=([^&]+)&", link)
        tags = book.client.get_experiment_by_name(MODELS).tags
        found: str = json.loads(json.loads(tags[f"{view.SAVED_VIEW}{name}"])["state"])[
            "searchFilter"
        ]
        return found

    older = finish(*runs[:2])
    newer = finish(*runs[1:])
    assert all(run in shown(older) for run in runs[:2]) and runs[2] not in shown(older)
    assert all(run in shown(newer) for run in runs[1:]) and runs[0] not in shown(newer)
    assert finish(*reversed(runs[:2])) == older, "the same models: the same view"
    # The oldest make room, and their names lead to the pipeline's last run.
    monkeypatch.setattr(view, "KEPT", 1)
    assert "viewStateShareKey=mine." in finish(runs[0])
    assert (
        "viewStateShareKey=mine&"
        in view.experiment_links(uri, view.view_of_runs("Mine", runs[:2]), "mine")[MODELS]
    )
    for run in runs:
        book.client.delete_run(run)


def test_runs_that_measured_nothing_yet_leave_a_view_as_it_is(tmp_path: Path, book: Book) -> None:
    experiment = book.client.get_experiment_by_name(MODELS)

    def saved() -> dict[str, Any]:
        tags = book.client.get_experiment_by_name(MODELS).tags
        found: dict[str, Any] = json.loads(json.loads(tags[f"{view.SAVED_VIEW}new"])["state"])
        return found

    def is_open() -> dict[str, bool]:
        return {one["uuid"]: one["display"] for one in saved()["compareRunSections"]}

    waiting = book.client.create_run(experiment.experiment_id).info.run_id
    dpo = book.client.create_run(experiment.experiment_id).info.run_id
    for name in ("accuracy/ceval", "train/reward_margin"):
        book.client.log_metric(dpo, name, 0.4)
    training = book.client.create_run(experiment.experiment_id).info.run_id
    book.client.log_metric(training, "train/loss", 2.0)
    view.save_view(book.client, "new", "new", [training])
    empty = ("accuracy", "preference", "routing")
    assert not any(is_open()[name] for name in empty), "nothing is in them"
    assert is_open()["loss"] and is_open()["speed"]
    book.client.log_metric(training, "routing/effect", 0.1)
    view.save_view(book.client, "new", "new", [training])
    assert is_open()["routing"]
    assert "metrics.`routing/effect`" in saved()["selectedColumns"]
    view.save_view(book.client, "new", "new", [dpo])
    assert all(is_open()[name] for name in ("accuracy", "loss", "preference", "speed"))
    before = saved()
    view.save_view(book.client, "new", "new", [waiting])
    assert saved() == before
    for run_id in (waiting, dpo, training):
        book.client.delete_run(run_id)


def test_descriptions_show_accuracies_and_the_reports_picture(book: Book, tmp_path: Path) -> None:
    note = book.model("k-zh").data.tags["mlflow.note.content"]
    assert "| ceval | 40.0 | 34.0 to 46.0 |" in note
    picture = tmp_path / "accuracy.png"
    picture.write_bytes(b"PNG")
    book.tracker.describe_results("| model |", [picture])
    run_id = book.tracker.run_id
    assert run_id is not None
    text = book.client.get_run(run_id).data.tags["mlflow.note.content"]
    assert f"get-artifact?path=accuracy.png&run_uuid={run_id}" in text
    assert "accuracy.png" in {file.path for file in book.client.list_artifacts(run_id)}


def test_figures_leave_out_what_says_nothing_of_a_model() -> None:
    found = {figure.name: figure for figure in figures(recorded.evaluation(0.4))}
    assert set(found) == {"accuracy/ceval", "accuracy/mmlu", "accuracy_in_words/ceval answer first"}
    assert found["accuracy/mmlu"].interval == pytest.approx((0.24, 0.36))
    clean = {"accuracy_clean/ceval/0_shot": 0.3, "questions_contaminated/ceval/0_shot": 0}
    assert figures({"counts": clean}) == []
    clean["questions_contaminated/ceval/0_shot"] = 2
    assert [figure.name for figure in figures({"counts": clean})] == ["accuracy_clean/ceval 0-shot"]
