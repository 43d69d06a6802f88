"""The nightly evaluation: the newest pretraining is found, and nothing new is no work."""

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.files import write_json
from common.recipes import load_config
from flows import checkpoint_curves
from flows.config import PipelineConfig
from flows.graph import Pipeline
from flows.runs.session import Session
from flows.schedules.newest_run import newest_run, own_run
from model.train.config import PretrainJob
from model.train.run.folder import JOB_FILE
from tasks.core.lock import LockedError, StageLock
from tasks.core.plan import Plan, no_tracker
from tasks.core.stage import Context
from tests.flows.schedules.small_pipeline import write_config, write_corpora
from tests.flows.schedules.store_pieces import stage


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    path = write_config(tmp_path / "c.yaml", write_corpora(tmp_path / "data"))
    return load_config(path, PipelineConfig)


def begin(
    config: PipelineConfig, store: Path, key: str, packed: str = "packed", **changes: Any
) -> Path:
    assert config.pretrain is not None
    settings = dataclasses.replace(config.pretrain.settings, **changes)
    folder = store / "pretrain" / f"{key}.partial"
    folder.mkdir(parents=True)
    job = PretrainJob(settings=settings, packed=packed, output=str(folder))
    write_json(folder / JOB_FILE, dataclasses.asdict(job))
    return folder


def test_the_newest_pretraining_is_found_also_with_other_files(
    config: PipelineConfig, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert newest_run(config, store) is None
    begin(config, store, "a" * 16)  # of these settings, on files that have changed since
    begin(config, store, "b" * 16, steps=7)
    begin(config, store, "c" * 16, micro_batch_size=1)  # no matter of what is learned
    for number, key in enumerate("cab"):
        job = store / "pretrain" / f"{key * 16}.partial" / JOB_FILE
        os.utime(job, (number, number))
    found = newest_run(config, store)
    assert found is not None and found.key == "a" * 16
    own = own_run(config, store)
    assert own is not None
    begin(config, store, own.key)
    found = newest_run(config, store)
    assert found is not None and found.key == own.key


def prepared(config: PipelineConfig, store: Path, key: str, **changes: Any) -> str:
    """Data as a configuration plans them, for another state of its corpora. Returns their folder.

    changes: settings by stage that were others.
    """
    plan = Plan()
    Pipeline(config, Context(store=store, tracker=no_tracker(), plan=plan)).packed  # noqa: B018
    inputs: dict[str, dict[str, Any]] = {"acquire": {}, "normalize": {"raw": f"{key}-acquire"}}
    inputs["clean"] = {"normalized": f"{key}-normalize"}
    inputs["pack"] = {"cleaned": f"{key}-clean", "extra_text": {}}
    for one in plan.stages:
        settings = {**one.material["config"], **changes.get(one.name, {})}
        if settings.get("kind") != "evals":
            stage(store, one.name, f"{key}-{one.name}", inputs[one.name], **settings)
    (store / "pack" / f"{key}-pack" / "shards").mkdir()
    return str(store / "pack" / f"{key}-pack")


@pytest.mark.parametrize(
    "changes",
    [
        {"acquire": {"datasets": {"wikipedia_cn": "elsewhere"}}},  # a mixture of fewer corpora
        {"acquire": {"datasets": dict.fromkeys(["wikipedia_cn", "wanjuan", "skypile"], "hub")}},
        {"acquire": {"fraction": 0.5}},
        {"pack": {"validation_fraction": 0.2}},
        {"clean": {"recipes": {"wikipedia": "none"}}},
    ],
)
def test_a_training_on_other_data_is_not_the_newest(
    config: PipelineConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Of a comparison of mixtures, or of ways to clean them: settings of the training are equal."""
    store = tmp_path / "store"
    moved = {"acquire": {"datasets": dict.fromkeys(config.corpora, "/a/newer/dump")}}
    begin(config, store, "a" * 16, packed=prepared(config, store, "a", **moved))
    begin(config, store, "b" * 16, packed=prepared(config, store, "b", **changes))
    for number, key in enumerate("ab"):
        job = store / "pretrain" / f"{key * 16}.partial" / JOB_FILE
        os.utime(job, (number, number))
    found = newest_run(config, store)
    assert found is not None and found.key == "a" * 16


def test_nothing_new_is_said_and_leaves_nothing(
    config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = tmp_path / "store", tmp_path / "scores"
    monkeypatch.setattr(checkpoint_curves, "preflight_once", lambda *given: config)
    nothing = checkpoint_curves.evaluate_checkpoints(None, False, "c.yaml", str(store), [])
    assert (nothing["run"], nothing["measured"], nothing["checkpoints"]) == (None, [], [])
    assert not (store / "mlflow").exists(), "no run of MLflow"

    begin(config, store, "a" * 16)
    there = [SimpleNamespace(digest="first")]
    monkeypatch.setattr(checkpoint_curves.PretrainingRun, "checkpoints", lambda run: there)
    monkeypatch.setattr(checkpoint_curves, "_questions", lambda *given: None)
    monkeypatch.setattr(checkpoint_curves, "scores_folder", lambda *given: folder)
    monkeypatch.setattr(checkpoint_curves, "rows_of", lambda folder: [])
    (folder / "steps").mkdir(parents=True)
    record = {"step": 10, "batch": 10, "finished": 1.0, "digest": "first"}
    (folder / "steps" / "step-00000010-first.json").write_text(json.dumps(record))
    again = checkpoint_curves.evaluate_checkpoints(None, False, "c.yaml", str(store), [])
    assert (again["run"], again["known"], again["measured"]) == ("a" * 16, 1, [])
    assert not (store / "mlflow").exists()
    there.append(SimpleNamespace(digest="second"))
    assert checkpoint_curves._nothing_new(None, "c.yaml", store, []) is None


def test_a_firing_beside_another_evaluation_leaves_the_work_to_it(
    config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule fires while its last run is at work, or somebody watches: no failure."""
    store, key = tmp_path / "store", "a" * 16
    begin(config, store, key)

    @contextmanager
    def opened(*given: Any) -> Iterator[Session]:
        context = Context(store=store, tracker=no_tracker())
        yield Session(pipeline=Pipeline(config, context), config=config, context=context)

    asked, there = SimpleNamespace(key="asked"), [SimpleNamespace(digest="first")]
    monkeypatch.setattr(checkpoint_curves, "preflight_once", lambda *given: config)
    monkeypatch.setattr(checkpoint_curves, "session", opened)
    monkeypatch.setattr(checkpoint_curves, "_questions", lambda *given: asked)
    monkeypatch.setattr(checkpoint_curves.PretrainingRun, "checkpoints", lambda run: there)
    lock = store / "checkpoint_scores" / key / "asked.lock"
    lock.parent.mkdir(parents=True)
    with StageLock(lock, what="the evaluation"):
        found = checkpoint_curves.evaluate_checkpoints(key, False, "c.yaml", str(store), [])
        with pytest.raises(LockedError, match="is being made by process"):
            checkpoint_curves.evaluate_checkpoints(key, True, "c.yaml", str(store), [])
    assert (found["run"], found["measured"], found["failed"]) == (key, [], {})
