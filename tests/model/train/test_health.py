"""Numbers that go wrong: what is judged, what is done, and that a resumed run does the same."""

import json
import math
import random
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from model.train.checkpoint.folders import complete_checkpoints
from model.train.health import Health, HealthError, HealthSettings, HealthState, NonFiniteError
from model.train.run.folder import (
    DATA_STATE_FILE,
    HEALTH_FILE,
    METRICS_FILE,
    MODEL_FOLDER,
    PROGRESS_FILE,
)
from model.train.run.metrics import last_value
from model.train.train_step import TrainStep
from model.train.trainer import Trainer
from tests.model.train import ranks
from tests.model.train.ranks import Fault

MakeRun = Callable[..., Trainer]
NAN = math.nan
LOSS = st.floats(0.1, 20, allow_nan=False)


def health(warmup_steps: int = 0, **changes: Any) -> Health:
    return Health(HealthSettings(spike_window=8, **changes), warmup_steps=warmup_steps)


def train(subject: Health, losses: list[float], first: int = 0) -> None:
    for step, loss in enumerate(losses, first):
        subject.trained(step, loss)


@given(st.lists(LOSS, min_size=8, max_size=40), LOSS)
def test_zscore_against_numpy(losses: list[float], loss: float) -> None:
    subject = health()
    train(subject, losses)
    window = np.array(losses[-8:])
    median = np.median(window)
    scale = max(1.4826 * np.median(np.abs(window - median)), 1e-3 * median)
    assert subject.zscore(loss) == pytest.approx((loss - median) / scale, abs=1e-9)


def test_nothing_is_a_spike_in_the_warm_up_or_while_the_window_fills() -> None:
    subject = health(warmup_steps=3, spike="skip")
    train(subject, [9.0, 8.0, 7.0] + [2.0] * 7)
    assert subject.state.window == [2.0] * 7
    assert subject.judge(loss=50.0, grad_norm=1.0).action == "train"
    subject.trained(10, 2.0)
    assert subject.judge(loss=50.0, grad_norm=1.0).action == "skip"
    assert subject.judge(loss=1e-3, grad_norm=1.0).action == "train", "a fall is no spike"


@pytest.mark.parametrize(
    ("policy", "action"),
    [("off", "train"), ("warn", "train"), ("skip", "skip"), ("rollback", "rollback")],
)
def test_a_spike_by_policy(policy: str, action: str) -> None:
    subject = health(spike=policy)
    train(subject, [2.0, 2.1] * 4)
    assert subject.judge(loss=2.3, grad_norm=1.0).anomaly == ""
    verdict = subject.judge(loss=20.0, grad_norm=1.0)
    assert verdict.action == action
    assert verdict.anomaly == ("" if policy == "off" else "spike")


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_not_finite_by_policy(bad: float) -> None:
    for loss, norm in ((bad, 1.0), (1.0, bad)):
        assert health().judge(loss=loss, grad_norm=norm).action == "stop"
        subject = health(non_finite="skip", max_in_a_row=2)
        assert subject.judge(loss=loss, grad_norm=norm).action == "skip"
        subject.skipped(5)
        subject.skipped(6)
        assert subject.judge(loss=loss, grad_norm=norm).action == "stop"
        subject.trained(5, 1.0)
        assert subject.judge(loss=loss, grad_norm=norm).action == "skip"
        assert subject.state.skipped == [(5, 6)] and subject.num_skipped == 2


def test_rollbacks_to_one_checkpoint_are_counted_through_it() -> None:
    subject = health(spike="rollback", max_in_a_row=2)
    train(subject, [2.0] * 8)
    saved = asdict(subject.state)
    for last, action in ((9, "rollback"), (12, "rollback"), (15, "stop")):
        assert subject.judge(loss=50.0, grad_norm=1.0).action == action
        subject.rolled_back(HealthState.from_dict(saved), to_step=8, first=8, last=last)
    assert subject.state.skipped == [(8, 15)], "each rollback goes on from the checkpoint's list"
    subject.rolled_back(HealthState.from_dict(saved), to_step=16, first=16, last=17)
    assert subject.state.rollbacks == 1


@given(st.lists(st.floats(allow_nan=False), max_size=9), st.integers(0, 9))
def test_the_state_survives_json_exactly(window: list[float], number: int) -> None:
    state = HealthState(window=window, in_a_row=number, skipped=[(1, 2), (4, 4)])
    assert HealthState.from_dict(json.loads(json.dumps(asdict(state)))) == state


def test_another_state_is_refused() -> None:
    with pytest.raises(DataError, match="health state"):
        HealthState.from_dict({"window": []})
    with pytest.raises(ConfigError, match=r"health\.spike_window = 2"):
        validate(HealthSettings(spike_window=2), "pretrain.health")


# In training


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """Multiply the losses of batches: scaled({3: 10.0})."""
    original = TrainStep.forward

    def scale(factors: dict[int, float]) -> None:
        monkeypatch.setattr(TrainStep, "forward", original)
        ranks.scale_losses(factors)

    monkeypatch.setattr(TrainStep, "forward", original)  # undone at the end, whatever `scale` sets
    return scale


def events(output: Path) -> list[dict[str, Any]]:
    lines = (output / HEALTH_FILE).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def output_of(run: Trainer) -> Path:
    return run.checkpoints.folder.parent


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def assert_same_weights(found: Trainer, expected: Trainer) -> None:
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name


SPIKES = {"spike_window": 4, "spike_threshold": 20.0, "rollback_steps": 0}


def test_a_batch_that_is_not_finite_is_skipped(make_run: MakeRun, scaled: Any) -> None:
    scaled({3: NAN})
    run = make_run(steps=6, health={"non_finite": "skip"})
    seen: list[dict[str, torch.Tensor]] = []
    step = run._step

    def recorded() -> Any:
        seen.append(weights(run))
        return step()

    run._step = recorded  # type: ignore[method-assign]
    run.fit()
    assert (run.progress.step, run.progress.batch) == (6, 7)
    for name, tensor in seen[4].items():
        assert torch.equal(tensor, seen[3][name]), name
    assert not torch.equal(seen[5]["lm_head.weight"], seen[4]["lm_head.weight"])
    [event] = events(output_of(run))
    assert (event["step"], event["batch"], event["action"]) == (4, 3, "skip")
    assert event["samples"] == [24, 31] and event["culprits"] == list(range(24, 32))
    newest = complete_checkpoints(run.checkpoints.folder)[-1]
    saved = json.loads((newest / PROGRESS_FILE).read_text())
    assert saved["health"]["skipped"] == [[3, 3]] and (saved["step"], saved["batch"]) == (6, 7)
    assert json.loads((newest / DATA_STATE_FILE).read_text())["samples_consumed"] == 56


def test_a_run_of_bad_batches_stops_it(make_run: MakeRun, scaled: Any) -> None:
    scaled(dict.fromkeys(range(3, 9), NAN))
    run = make_run(steps=6, health={"non_finite": "skip", "max_in_a_row": 2})
    with pytest.raises(NonFiniteError, match=r"step 4 \(batch 5\)"):
        run.fit()
    [saved] = complete_checkpoints(run.checkpoints.folder)
    assert saved.name == "step-00000003"
    # Told to let more pass, it goes on from there.
    again = make_run(steps=6, health={"non_finite": "skip", "max_in_a_row": 9})
    again.fit()
    assert again.progress.batch == 12
    found = [(e["batch"], e["action"]) for e in events(output_of(again))]
    assert found == [(3, "skip"), (4, "skip"), (5, "stop"), *((n, "skip") for n in range(5, 9))]


def test_a_spike_is_noted_and_trained_on_by_default(make_run: MakeRun, scaled: Any) -> None:
    scaled({8: 10.0})
    run = make_run(steps=10, health={"spike_window": 4, "spike_threshold": 20.0})
    run.fit()
    [event] = events(output_of(run))
    assert (event["batch"], event["what"], event["action"]) == (8, "spike", "warn")
    assert event["z"] > 20 and run.progress.batch == 10
    measured = ranks.read_run(output_of(run))
    assert measured[9]["health/loss_z"] == event["z"]


def test_a_skipped_spike_never_reaches_the_weights(make_run: MakeRun, scaled: Any) -> None:
    settings = {**SPIKES, "spike": "skip", "non_finite": "skip"}
    scaled({8: 10.0})
    run = make_run(steps=10, health=settings)
    run.fit()
    scaled({8: NAN})
    reference = make_run("reference", steps=10, health=settings)
    reference.fit()
    assert_same_weights(run, reference)
    assert ranks.read_run(output_of(run)) == ranks.read_run(output_of(reference))
    assert [e["what"] for e in events(output_of(run))] == ["spike"]


def test_a_level_that_stays_stops_a_run_that_skips(make_run: MakeRun, scaled: Any) -> None:
    scaled(dict.fromkeys(range(8, 30), 10.0))
    run = make_run(steps=10, health={**SPIKES, "spike": "skip", "max_in_a_row": 3})
    with pytest.raises(HealthError, match=r"step 9 \(batch 11\) has a loss of"):
        run.fit()
    assert run.progress.step == 8


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_rollback_skips_from_the_checkpoint_through_the_spike(
    make_run: MakeRun, scaled: Any, optimizer: str
) -> None:
    settings = {**SPIKES, "spike": "rollback", "non_finite": "skip"}
    changes = {"steps": 12, "checkpoints": {"interval": 4}, "optimizer": optimizer}
    scaled({9: 10.0})
    run = make_run(health=settings, **changes)
    run.fit()
    assert (run.progress.step, run.progress.batch) == (12, 14)
    [event] = events(output_of(run))
    assert (event["action"], event["to_step"], event["skipped"]) == ("rollback", 8, [8, 9])
    # A run in which these two batches never counted is this run.
    scaled({8: NAN, 9: NAN})
    reference = make_run("reference", health=settings, **changes)
    reference.fit()
    assert_same_weights(run, reference)
    assert ranks.read_run(output_of(run)) == ranks.read_run(output_of(reference))
    assert run.health.state.skipped == reference.health.state.skipped == [(8, 9)]


def test_a_rollback_goes_far_enough_back_and_forgets_what_came_after(
    make_run: MakeRun, scaled: Any
) -> None:
    settings = {**SPIKES, "spike": "rollback", "rollback_steps": 3, "non_finite": "skip"}
    scaled({9: 10.0})
    changes = {"steps": 12, "health": settings, "checkpoints": {"interval": 2, "keep_last": 9}}
    run = make_run(**changes)
    forgotten: list[list[str]] = []
    forget = run.checkpoints.remove_after

    def recorded(step: int) -> None:
        forget(step)
        folder = run.checkpoints.folder
        forgotten.append([path.name for path in complete_checkpoints(folder)])

    run.checkpoints.remove_after = recorded  # type: ignore[method-assign]
    run.fit()
    assert forgotten == [["step-00000002", "step-00000004", "step-00000006"]]
    scaled(dict.fromkeys(range(6, 10), NAN))
    reference = make_run("reference", **changes)
    reference.fit()
    assert_same_weights(run, reference)


def test_without_a_checkpoint_far_enough_back_the_batch_is_skipped(
    make_run: MakeRun, scaled: Any
) -> None:
    scaled({9: 10.0})
    settings = {**SPIKES, "spike": "rollback", "rollback_steps": 8}
    run = make_run(steps=12, health=settings, checkpoints={"interval": 4, "keep_last": 3})
    run.fit()
    [event] = events(output_of(run))
    assert event["action"] == "rollback without checkpoint"
    assert run.health.state.skipped == [(9, 9)]


def test_when_the_data_end_early_the_run_ends_whole(make_run: MakeRun, scaled: Any) -> None:
    available = make_run("probe", steps=0).total_steps
    scaled({3: NAN})
    run = make_run(steps=0, health={"non_finite": "skip"})
    run.fit()
    assert run.progress.step == available - 1
    assert run.progress.batch == available
    newest = complete_checkpoints(run.checkpoints.folder)[-1]
    assert newest.name == f"step-{available - 1:08d}"
    assert "validation/loss" in ranks.read_run(output_of(run))[available - 1]


def test_a_skipped_batch_at_the_end_of_the_data_counts_as_consumed(
    make_run: MakeRun, scaled: Any
) -> None:
    available = make_run("probe", steps=0).total_steps
    scaled({available - 1: NAN})
    run = make_run(steps=0, health={"non_finite": "skip"}, eval_interval=0)
    run.fit()
    assert run.progress.batch == available == run.progress.step + 1
    assert last_value(output_of(run) / METRICS_FILE, "data/samples") == available * 8


# Killed


LOSSES = {7: NAN, 10: 10.0, 15: 10.0}
JOB = {
    "steps": 20,
    "health": {**SPIKES, "spike": "rollback", "non_finite": "skip"},
    "checkpoints": {"interval": 4, "keep_last": 2},
}


@pytest.fixture(scope="module")
def undisturbed(packed: Path, fork_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks with a skip and two rollbacks, which nothing killed."""
    output = tmp_path_factory.mktemp("undisturbed")
    job = ranks.write_job(packed, output, ranks.settings(**JOB))
    assert ranks.run_ranks(job, 2, losses=LOSSES) == [0, 0], (output / "rank-0.log").read_text()
    assert [(e["action"], e["batch"]) for e in events(output)] == [
        ("skip", 7),
        ("rollback", 10),
        ("rollback", 15),
    ]
    return output


def assert_same_decisions(output: Path, reference: Path) -> None:
    assert events(output) == events(reference)
    assert ranks.read_run(output) == ranks.read_run(reference)
    for name in ("model.safetensors", "config.json"):
        assert (output / MODEL_FOLDER / name).read_bytes() == (
            reference / MODEL_FOLDER / name
        ).read_bytes()


def test_kills_change_no_decision(packed: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(**JOB))
    for fault in (
        Fault(step=8, at="before rename"),  # after the skip, before it is in a checkpoint
        Fault(step=11, number=signal.SIGTERM, rank=1),  # after a rollback: an extra checkpoint
        Fault(step=13, rank=1),
        Fault(step=16, at="after rename"),
    ):
        assert 0 not in ranks.run_ranks(job, 2, fault, losses=LOSSES), fault
    assert ranks.run_ranks(job, 2, losses=LOSSES) == [0, 0], (tmp_path / "rank-0.log").read_text()
    assert_same_decisions(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_kills_change_no_decision(
    packed: Path, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    job = ranks.write_job(packed, tmp_path, ranks.settings(**JOB))
    for _ in range(8):
        at = chance.choice(["log", "before copy", "before tensors", "before rename", "validation"])
        step = chance.randint(1, 20) if at == "log" else 4 * chance.randint(1, 5)
        if at == "validation":
            step = 3 * chance.randint(1, 6)
        fault = Fault(
            step=step,
            at=at,
            rank=chance.randint(0, 1) if at == "log" else 0,  # type: ignore[arg-type]
            number=chance.choice([signal.SIGKILL, signal.SIGTERM]),
        )
        ranks.run_ranks(job, 2, fault, losses=LOSSES)
    assert ranks.run_ranks(job, 2, losses=LOSSES) == [0, 0]
    assert_same_decisions(tmp_path, undisturbed)
