"""A stop between any two lines of the tracker's code leaves no run of MLflow running."""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from common.processes import RunStopped, stop_on_signals
from tasks.core.tracking import PIPELINES, Tracker, default_uri, outcome, stage_track, tracker

FILES = [inspect.getfile(module) for module in (tracker, stage_track, outcome)]
WATCHED = (
    *("opened", "_open", "create_run", "recorded", "stage", "begin", "_begin", "_end", "end"),
    *("ended_by_outcome", "manifest", "close", "_close"),
)


class StopAt:
    """Sends this process SIGTERM before the `number`-th new line of the watched functions."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, set[tuple[str, int]]()
        self.place = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code.co_filename not in FILES or code.co_name not in WATCHED:
            return None
        place = (code.co_name, frame.f_lineno)
        if event == "line" and place not in self.seen:
            self.seen.add(place)
            if len(self.seen) == self.number:
                self.place = f"{code.co_name}, line {frame.f_lineno}"
                os.kill(os.getpid(), signal.SIGTERM)
        return self


def run(store: Path, name: str, at: StopAt) -> str:
    """One pipeline of one stage; returns `stopped` or `finished`."""
    folder = store / f"{name}.partial"
    folder.mkdir(exist_ok=True)
    before = sys.gettrace()
    own = Tracker(store=store, pipeline=name, pipeline_id=name, config={"a": 1})
    about: dict[str, Any] = {"label": name, "key": name, "config": {}, "inputs": {}}
    try:
        with stop_on_signals():
            sys.settrace(at)
            with own.recorded(), own.stage("sft", folder=folder, trains=False, **about) as track:
                track.manifest({"stage": "sft", "key": name})
            sys.settrace(before)
        return "finished"
    except RunStopped:
        return "stopped"
    finally:
        sys.settrace(before)


def statuses(store: Path) -> dict[str, list[str]]:
    """Statuses of all runs by their names; those of pipelines without the time."""
    client = MlflowClient(default_uri(store))
    experiment = client.get_experiment_by_name(PIPELINES)
    found: dict[str, list[str]] = {}
    for one in client.search_runs([experiment.experiment_id]) if experiment else ():
        name = one.info.run_name.partition(" 20")[0]
        found.setdefault(name, []).append(one.info.status)
    return found


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_no_run_stays_running_and_a_stage_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data))  # the notice of each stop
    whole = StopAt(0)
    assert run(tmp_path, "whole", whole) == "finished"
    assert len(whole.seen) > 40, "the functions that make and end runs"
    for number in range(every, len(whole.seen) + 1, every):
        at = StopAt(number)
        ended = run(tmp_path, f"stop-{number}", at)
        assert at.place and ended == "stopped", at.place
        told = statuses(tmp_path)
        assert "RUNNING" not in {status for each in told.values() for status in each}, at.place
        assert run(tmp_path, f"stop-{number}", StopAt(0)) == "finished"
        assert statuses(tmp_path)[f"sft stop-{number}"] == ["FINISHED"], at.place
