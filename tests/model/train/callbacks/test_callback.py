"""The protocol of callbacks: when each method is called, and what becomes of a callback's state."""

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from model.train.callbacks.callback import Callback
from model.train.trainer import Trainer

MakeRun = Callable[..., Trainer]


class Recorder(Callback):
    """Writes down each call, and counts steps."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.loaded: list[tuple[Mapping[str, Any], bool]] = []
        self.steps = 0

    def load_state(self, state: Mapping[str, Any], *, rollback: bool) -> None:
        self.loaded.append((state, rollback))
        self.steps = state.get("steps", 0)

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def on_train_begin(self, trainer: Trainer) -> None:
        self.calls.append("begin")

    def on_phase(self, trainer: Trainer, phase: str) -> None:
        if self.calls[-1] != phase:  # some are called again, as a sign of progress
            self.calls.append(phase)

    def on_step_end(self, trainer: Trainer, outcome: Any) -> None:
        assert outcome.trained
        self.steps += 1
        self.calls.append("step end")

    def on_metrics(self, trainer: Trainer, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(f"metrics {step} {sorted(metrics)[0]}")

    def before_checkpoint(self, trainer: Trainer) -> None:
        self.calls.append("before checkpoint")

    def after_checkpoint(self, trainer: Trainer) -> None:
        self.calls.append("after checkpoint")

    def on_train_end(self, trainer: Trainer, error: BaseException | None) -> None:
        self.calls.append(f"end {error!r}")

    def close(self) -> None:
        self.calls.append("close")


def with_recorder(run: Trainer) -> Recorder:
    recorder = Recorder()
    run.callbacks["recorder"] = recorder
    return recorder


def test_the_loop_imports_no_callback_but_their_base(root: Path) -> None:
    tree = ast.parse((root / "model/train/trainer.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found = {module for module in modules if module and module.startswith("model.train.callbacks")}
    assert found == {"model.train.callbacks.callback"}


def test_the_order_of_calls(make_run: MakeRun) -> None:
    run = make_run(steps=2, eval_interval=2, checkpoints={"interval": 2})
    recorder = with_recorder(run)
    run.fit()
    run.close()
    step = ["data", "forward_backward", "all_reduce", "optimizer", "step end"]
    first = [*step, "metrics 1 data/batch", "before checkpoint", "after checkpoint"]
    last = [*step, "metrics 2 data/batch", "validation", "metrics 2 perf/validation_seconds"]
    saved = ["checkpoint", "metrics 2 perf/checkpoint_seconds", "after checkpoint"]
    assert recorder.calls == [
        "begin",
        "before checkpoint",
        "after checkpoint",
        *first,
        *last,
        "before checkpoint",
        *saved,
        "checkpoint",
        "end None",
        "close",
    ]


def test_state_survives_a_resume(make_run: MakeRun) -> None:
    run = make_run(steps=2, checkpoints={"interval": 2}, schedule="constant")
    assert with_recorder(run).state() == {"steps": 0}
    run.fit()
    again = make_run(steps=4, checkpoints={"interval": 2}, schedule="constant")
    recorder = with_recorder(again)
    newcomer = Recorder()
    again.callbacks["newcomer"] = newcomer
    again.fit()
    assert recorder.loaded == [({"steps": 2}, False)] and recorder.steps == 4
    assert newcomer.loaded == [({}, False)] and newcomer.steps == 2


def test_what_a_callback_raises_ends_the_training(make_run: MakeRun) -> None:
    run = make_run(steps=4)
    recorder = with_recorder(run)

    class Failing(Callback):
        def on_step_end(self, trainer: Trainer, outcome: Any) -> None:
            raise RuntimeError("no more")

    run.callbacks["failing"] = Failing()
    with pytest.raises(RuntimeError, match="no more"):
        run.fit()
    run.close()
    assert recorder.calls[-2:] == ["end RuntimeError('no more')", "close"]
