"""Stages that train count the energy of all their sessions, and the report shows it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from model.train.run.folder import METRICS_FILE, PREPARED_FILE, SESSIONS_FILE
from model.train.run.metrics import JsonLines
from tasks.core import finetune
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.pretrain import PretrainConfig, pretrain
from tasks.report.data import ReportData, Training
from tasks.report.language import Writer
from tasks.report.sections.cost import cost_section
from tests.model.train.ranks import write_packed
from tests.tasks.running import run_stage, stage_run


def trained(run: StageRun, *_: Any, **__: Any) -> None:
    """Leave the files of two sessions of a training, the first of them killed."""
    line = {"step": 1, "time": 0.0, "metrics": {"train/loss": 1.0}}
    (run.folder / METRICS_FILE).write_text(f"{json.dumps(line)}\n")
    lines = JsonLines(run.folder / SESSIONS_FILE)
    about = {"host": "h", "commit": None, "software": {}}
    for session, joules in ((1, [0.0, 5_400_000.0]), (2, [0.0, 900_000.25, 1_800_000.5])):
        lines.append(
            event="begin", session=session, step=0, batch=0, num_processes=1, device="X", **about
        )
        for noted in joules:
            lines.append(event="energy", session=session, step=0, joules=noted)


def test_sft_and_dpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "torchrun", trained)
    monkeypatch.setattr(finetune, "_steps_made", lambda checkpoints: 1)
    run = stage_run(tmp_path)
    (tmp_path / PREPARED_FILE).write_text('{"sets": {}}')
    job = cast("Any", SimpleNamespace(method="sft", scratch=str(tmp_path)))
    finetune.train(run, job, "pairs", num_processes=1, count=lambda *_: None)
    assert run.counts["energy_joules"] == 7_200_000.5


def test_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pretrain.torchrun", trained)
    packed = StageResult(
        stage="pack", key="p", folder=write_packed(tmp_path / "packed"), manifest={}
    )
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    values: dict[str, Any] = {"model": small, "global_batch_size": 4, "micro_batch_size": 4}
    config = PretrainConfig(**values, sequence_length=64, warmup_steps=1, num_processes=1)
    run = run_stage(pretrain, tmp_path / "run", config, packed=packed)
    assert run.counts["energy_joules"] == 7_200_000.5
    assert run.counts["train_loss"] == 1.0


def test_the_report_shows_kilowatt_hours_or_that_nobody_measured() -> None:
    counts: dict[str, dict[str, float]] = {"told": {"energy_joules": 7_200_000.0}, "silent": {}}
    trainings = {
        name: Training(name=name, curves={}, counts=of_one, mixture=[])
        for name, of_one in counts.items()
    }
    data = cast("ReportData", SimpleNamespace(trainings=trainings, stages={}, finished_stages=[]))
    say = Writer()
    rows = [line.split("|") for line in cost_section(data, say).splitlines() if "|" in line]
    cells = {row[1].strip(): row[-2].strip() for row in rows}
    assert cells["model"] == say("column.energy, kWh")
    assert cells["silent"] == say("not_measured")
    assert cells["told"].startswith("2") or ">2<" in cells["told"], cells
