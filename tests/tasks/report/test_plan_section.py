"""Predictions of a pretraining: written once, and shown beside what came."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.cost.parts import flops_per_token, parameters_of
from model.cost.training import checkpoint_bytes
from model.train.checkpoint.retention import CheckpointSettings
from model.train.config import PretrainSettings
from model.train.model_settings import architecture_of
from model.train.run.folder import METRICS_FILE, PLAN_FILE
from tasks.core.manifest import StageResult
from tasks.pretrain.predicted import predict, speed_of
from tasks.report.data import gather
from tasks.report.language import LANGUAGES, Writer
from tasks.report.sections.plan import plan_section
from tasks.report.trace.numbers import Numbers
from tests.tasks.pipeline_folders import Pipeline

SETTINGS = PretrainSettings(
    model={"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
    sequence_length=32,
    global_batch_size=4,
    micro_batch_size=2,
    steps=50,
    warmup_steps=2,
    checkpoints=CheckpointSettings(interval=20, keep_last=2, export=False),
)


def run_in(folder: Path, store: Path) -> Any:
    """As much of a stage's run as a prediction needs."""
    folder.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    log = SimpleNamespace(info=lambda text, *values: said.append(text % values))
    return SimpleNamespace(folder=folder, store=store, stage="pretrain", log=log, said=said)


def predicted(folder: Path, store: Path, **changes: Any) -> dict[str, Any]:
    """The plan that a pretraining writes."""
    values = {"vocabulary": 100, "steps": 50, "ranks": 2, "ranks_per_node": 2, **changes}
    predict(run_in(folder, store), SETTINGS, **values)
    plan: dict[str, Any] = json.loads((folder / PLAN_FILE).read_text("utf-8"))
    return plan


def test_a_prediction_is_written_when_a_run_starts_and_stays(tmp_path: Path) -> None:
    plan = predicted(tmp_path / "run", tmp_path)
    architecture = architecture_of(SETTINGS, vocab_size=128)
    assert architecture is not None
    parameters = parameters_of(architecture).total
    assert plan["tokens"] == 50 * 4 * 32
    assert plan["parameters"] == parameters
    assert plan["flops"] == plan["tokens"] * flops_per_token(architecture, 32)
    assert plan["seconds"] is None, "no run in the store says how fast this processor is"
    # After steps 20 and 40, and an extra one after 50; and the model.
    assert plan["disk_bytes"] == 4 * parameters * (3 * 3 + 1)
    assert predicted(tmp_path / "run", tmp_path, steps=60) == plan, "a later start writes no other"


def test_a_second_run_is_predicted_at_the_speed_of_the_first(tmp_path: Path) -> None:
    first = tmp_path / "pretrain" / "a" / "manifest.json"
    first.parent.mkdir(parents=True)
    manifest = {"schema": 1, "stage": "pretrain", "key": "a", "notes": {"num_processes": 2}}
    first.write_text(json.dumps(manifest), "utf-8")
    line = {"step": 1, "time": 1.0, "metrics": {"perf/tflops_per_device": 0.001}}
    (first.parent / METRICS_FILE).write_text(json.dumps(line) + "\n", "utf-8")
    assert speed_of(tmp_path).flops_per_second == pytest.approx(2e9)
    plan = predicted(tmp_path / "run", tmp_path)
    assert plan["seconds"] == pytest.approx(plan["flops"] / 2e9)
    assert plan["seconds_basis"] == "pretrain a"


def test_a_prediction_that_cannot_be_made_stops_no_run(tmp_path: Path) -> None:
    run = run_in(tmp_path, tmp_path)
    wrong = PretrainSettings(model={"hidden_size": 63, "num_attention_heads": 2})
    predict(run, wrong, vocabulary=100, steps=50, ranks=1, ranks_per_node=1)
    assert not (tmp_path / PLAN_FILE).exists()
    assert "no plan is written" in run.said[0]


def test_checkpoints_are_counted_as_they_are_kept() -> None:
    saved = CheckpointSettings(interval=10, keep_last=3, keep_every=50, keep_best=1)
    settings = PretrainSettings(model={}, steps=200, eval_interval=10, checkpoints=saved)
    assert list(checkpoint_bytes(settings, 200, 1.0).values()) == [12.0, 12.0, 5.0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_shows_what_was_planned_and_what_came(tmp_path: Path, language: Any) -> None:
    pipeline = Pipeline(tmp_path)
    absent = plan_section(gather(**pipeline.inputs()), Writer(language))
    assert "|" not in absent
    base: StageResult = pipeline.pretrain
    base.manifest["counts"] |= {"tokens": 900.0, "steps": 9, "seconds": 7200.0}
    plan = {"tokens": 1000, "steps": 10, "seconds": None, "memory_bytes": 2**30, "disk_bytes": 1e9}
    (base.folder / PLAN_FILE).write_text(json.dumps(plan), "utf-8")
    numbers = Numbers()
    text = plan_section(gather(**pipeline.inputs()), Writer(language, numbers))
    shown = {number.shown for number in numbers.by_id.values()}
    assert {"1,000", "900", "90.0", "10", "9", "2.000", "1.00"} <= shown
    assert ("not planned" if language == "en" else "未预测") in text

    (base.folder / PLAN_FILE).write_text("{", "utf-8")
    assert "|" not in plan_section(gather(**pipeline.inputs()), Writer(language)), "damaged"
