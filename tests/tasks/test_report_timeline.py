"""Timeline of a pretraining, in words and in the picture."""

import dataclasses
import json
from pathlib import Path

import pytest

from model.train.run.folder import HEALTH_FILE, METRICS_FILE, SESSIONS_FILE
from model.train.run.journal import LengthEntry, write_journal
from model.train.run.length import LengthChange
from model.train.run.metrics import JsonLines
from tasks.core.manifest import StageResult
from tasks.core.paper.tables import load_paper
from tasks.core.theme import DARK, LIGHT
from tasks.report.data import Curve, ReportData, Training, read_training
from tasks.report.format import format_report
from tasks.report.language import Writer
from tasks.report.timeline import Timeline, read_timeline
from tasks.report.timeline_figure import axis, pretraining


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 100 steps of 8 tokens: stopped at 20, killed, rescaled, prolonged, two left out."""
    sessions = JsonLines(tmp_path / SESSIONS_FILE)
    told = ((0, 2, (20, "stopped")), (20, 2, None), (30, 1, (100, "done")))
    for number, (step, processes, end) in enumerate(told):
        sessions.append(
            event="begin",
            session=number,
            step=step,
            batch=step,
            num_processes=processes,
            device="GPU X",
            host="h",
            commit=None,
            software={},
        )
        if end:
            sessions.append(event="end", session=number, step=end[0], how=end[1])
    health = JsonLines(tmp_path / HEALTH_FILE)
    event = {"loss": 9.0, "grad_norm": 1.0, "z": 8.0, "samples": [0, 1], "culprits": []}
    for batch, action in ((49, "warn"), (60, "skip")):
        health.append(step=batch + 1, batch=batch, what="spike", action=action, **event)
    health.append(
        step=81, batch=81, what="spike", action="rollback", to_step=75, skipped=[76, 81], **event
    )
    length = LengthChange(step=40, total_steps=100)
    write_journal(tmp_path, [LengthEntry(request="longer", length=length)])
    lines = [
        {
            "step": step,
            "time": 0.0,
            "metrics": {
                "train/loss": 5.0 - 0.03 * step,
                "data/tokens": 8.0 * (step + (step > 60)),
                "train/learning_rate": 1e-3,
                "perf/tokens_per_second": 100.0,
                **({"validation/loss": 5.1 - 0.03 * step} if step % 10 == 0 else {}),
            },
        }
        for step in range(1, 101)
    ]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def data_of(run: Path) -> ReportData:
    manifest = {"counts": {}, "notes": {}}
    result = StageResult(stage="pretrain", key="k", folder=run, manifest=manifest)
    return ReportData(
        name="x", trainings={"base": read_training("base", result)}, timeline=read_timeline(run)
    )


def test_every_kind_of_event_is_a_mark_at_its_step(run: Path) -> None:
    events = read_timeline(run).events
    assert [(event.step, event.kind) for event in events] == [
        (20, "resumed"),
        (30, "rescaled"),
        (40, "length changed"),
        (60, "batches skipped"),
        (75, "batches skipped"),
    ]


def test_a_run_in_one_piece_has_no_marks(tmp_path: Path) -> None:
    assert read_timeline(tmp_path) == Timeline()


def test_the_report_tells_the_sessions(run: Path) -> None:
    text = format_report(data_of(run), load_paper(), [])
    assert "### Timeline of the pretraining" in text
    assert "| 2 | 20 | not known | 2 | GPU X | killed |" in text
    for line in (
        "- step 20: resumed after it was stopped",
        "- step 30: 2 -> 1 processes, after a kill",
        "- step 40: length changed: 100 steps from here on",
        "rollback to step 75",
    ):
        assert line in text
    chinese = format_report(data_of(run), load_paper(), [], Writer("zh"))
    for line in (
        "- 第 20 步：被要求停止之后，继续训练",
        "- 第 30 步：2 -> 1 个进程，",
        "回退到第 75 步",
    ):
        assert line in chinese
    calm = dataclasses.replace(data_of(run), timeline=Timeline())
    assert "Timeline of the pretraining" not in format_report(calm, load_paper(), [])


def test_a_session_that_failed_is_told_with_its_error(run: Path) -> None:
    path = run / SESSIONS_FILE
    path.write_text(path.read_text().replace('"stopped"', '"failed: DataError"'))
    assert "- step 20: resumed after it failed: DataError" in format_report(
        data_of(run), load_paper(), []
    )


def test_the_picture_has_a_mark_for_each_event_in_every_panel(run: Path) -> None:
    data = data_of(run)
    for theme in (LIGHT, DARK):
        figure = pretraining(data, theme)
        assert figure is not None
        assert [axes.get_ylabel() for axes in figure.axes][1:] == ["rate", "tokens/s", "processes"]
        for axes in figure.axes:
            dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
            # Tokens, not steps: from step 61 on there was one batch more than steps.
            assert [line.get_xdata()[0] for line in dashed] == [160, 240, 320, 480, 608]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "batches skipped (2 times)" in legend


def test_tokens_grow_evenly_between_two_measurements() -> None:
    curve = Curve(steps=[10, 20], values=[100.0, 300.0])
    place, unit = axis(Training(name="base", curves={"data/tokens": curve}, counts={}, mixture=[]))
    assert unit == "tokens"
    assert [place(step) for step in (0, 5, 10, 15, 20)] == [0, 50, 100, 200, 300]
    place, unit = axis(Training(name="base", curves={}, counts={}, mixture=[]))
    assert (place(7), unit) == (7, "step")
