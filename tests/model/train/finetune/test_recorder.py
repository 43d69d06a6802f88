"""Lines of metrics.jsonl and the final figures, at any interval, end and interruption; no model."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerControl

from common.errors import StageError
from model.train.distributed.signals import StopFlag
from model.train.finetune.checkpoints import complete_checkpoints, num_steps
from model.train.finetune.config import SftSettings
from model.train.finetune.order import SampleOrder
from model.train.finetune.recorder import Recorder
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import JsonlSink, read_metrics
from tasks.core.finetune import final_figures


def loss_at(step: int) -> float:
    return 5 - step / 16


def make_session(
    folder: Path, order: SampleOrder, log_interval: int, begin: int, end: int, last: int, how: str
) -> None:
    """The calls of a trainer that goes from step `begin` to `end`, of `last` in all.

    how: save, a checkpoint and a kill after it; kill, a kill after the line of the last step;
    stop, SIGTERM.
    """
    stop = StopFlag()
    recorder = Recorder(JsonlSink(folder / METRICS_FILE), stop)
    recorder.use_order(order, SftSettings(log_interval=log_interval))
    arguments: Any = SimpleNamespace(output_dir=str(folder), device="cpu")
    state: Any = SimpleNamespace(
        global_step=begin, max_steps=last, is_world_process_zero=True, log_history=[]
    )
    control = TrainerControl()
    recorder.on_train_begin(arguments, state, control)
    for step in range(begin + 1, end + 1):
        state.global_step = step
        if step == end and how == "stop":
            stop.requested = True
        recorder.on_step_end(arguments, state, control)
        recorder.on_log(arguments, state, control, logs={"loss": loss_at(step)})
        if step == last or (step == end and how != "kill"):
            checkpoint = folder / f"checkpoint-{step}"
            checkpoint.mkdir(exist_ok=True)
            (checkpoint / "weights").write_text(str(step))
            recorder.on_save(arguments, state, control)
    assert control.should_training_stop == (how == "stop" and end > begin)


@settings(max_examples=80, deadline=None)
@given(
    last=st.integers(1, 25),
    log_interval=st.integers(1, 40),
    ends=st.lists(
        st.tuples(st.integers(0, 25), st.sampled_from(["save", "kill", "stop"])), max_size=4
    ),
)
def test_lines_and_figures_are_those_of_an_undisturbed_run(
    last: int, log_interval: int, ends: list[tuple[int, str]]
) -> None:
    order = SampleOrder(
        lengths=np.arange(1, 12),
        counts=np.ones(11, dtype=np.int64),
        global_batch_size=4,
        micro_batch_size=2,
        seed=7,
        group_by_length=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder, saved = Path(name), 0
        for end, how in [*sorted((min(end, last), how) for end, how in ends), (last, "save")]:
            if saved == last:  # the result is there: such a run is not resumed
                break
            begin, end = saved, max(end, saved)
            make_session(folder, order, log_interval, begin, end, last, how)
            saved = begin if how == "kill" and end < last else end
            lines = list(read_metrics(folder / METRICS_FILE))
            if how == "stop" and end > begin:
                assert lines[-1]["step"] == end  # a stop leaves the line of its step
        found = {line["step"]: line["metrics"] for line in lines}
        assert [line["step"] for line in lines] == sorted(
            {1, last} | {step for step in range(1, last + 1) if step % log_interval == 0}
        )
        assert all(m["train/loss"] == loss_at(step) for step, m in found.items())
        assert all(order.position(step).items() <= m.items() for step, m in found.items())
        steps = num_steps(complete_checkpoints(folder)[-1])
        figures = final_figures(folder / METRICS_FILE, steps)
        assert figures["steps"] == steps == last
        assert figures["first_loss"] == loss_at(1)
        assert figures["train_loss"] == loss_at(last)
        assert figures["tokens"] == order.position(last)["data/tokens"]
        assert figures["epochs"] == order.position(last)["train/epoch"]
        with pytest.raises(StageError, match=f"step {last} of {last + 1}"):
            final_figures(folder / METRICS_FILE, last + 1)
