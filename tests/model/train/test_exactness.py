"""A run that was killed, stopped or moved to other ranks is the run that was not."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from model.train.checkpoint.folders import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, LEASE_FOLDER, MODEL_FOLDER
from model.train.train_step import use_deterministic_algorithms
from tests.model.train import ranks
from tests.model.train.ranks import Fault

pytestmark = pytest.mark.usefixtures("fork_server")

STOPPED = 143


def weights(output: Path) -> bytes:
    return (output / MODEL_FOLDER / "model.safetensors").read_bytes()


def kill(job: Path, fault: Fault) -> None:
    """Run two ranks until the fault kills one; the other must not report success."""
    codes = ranks.run_ranks(job, 2, fault)
    assert codes[fault.rank] == -signal.SIGKILL, (fault, codes)
    assert codes[1 - fault.rank] != 0
    assert not (job.parent / MODEL_FOLDER).exists()


def finish(job: Path) -> None:
    assert ranks.run_ranks(job, 2) == [0, 0], (job.parent / "rank-0.log").read_text()


def assert_same_run(output: Path, reference: Path) -> None:
    assert ranks.read_run(output) == ranks.read_run(reference)
    assert ranks.read_samples(output) == ranks.read_samples(reference)
    assert weights(output) == weights(reference)


def test_three_kills_leave_no_trace(packed: Path, uninterrupted: Path, tmp_path: Path) -> None:
    faults = [
        Fault(step=4, at="before rename"),  # nothing complete yet: starts from the beginning
        Fault(step=7, rank=1),  # between checkpoints, and not the rank that writes the metrics
        Fault(step=8, at="before tensors"),
    ]
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    for fault in faults:
        kill(job, fault)
    finish(job)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
def test_thirty_random_kills_leave_no_trace(
    packed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    changes = ranks.settings(
        steps=40, micro_batch_size=4, eval_interval=5, checkpoints={"interval": 4, "keep_last": 2}
    )
    reference = tmp_path_factory.mktemp("reference")
    finish(ranks.write_job(packed, reference, changes))
    job = ranks.write_job(packed, tmp_path, changes)
    chance = random.Random(11)
    resumed = 0
    for number in range(30):
        # Somewhere between the checkpoint it resumes from and the next one, or inside that one.
        at = chance.choice(
            ["log", "log", "before copy", "before tensors", "before rename", "after rename"]
        )
        if at == "after rename" and resumed > number:
            at = "log"  # leave steps for the kills that are to come
        step = resumed + (chance.randint(1, 4) if at == "log" else 4)
        rank = chance.randint(0, 1) if at == "log" else 0
        kill(job, Fault(step=step, at=at, rank=rank))  # type: ignore[arg-type]
        complete = complete_checkpoints(tmp_path / CHECKPOINTS_FOLDER)
        resumed = int(complete[-1].name.split("-")[1]) if complete else 0
    assert resumed > 4
    finish(job)
    assert_same_run(tmp_path, reference)


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        (Fault(step=4, number=signal.SIGTERM, at="before tensors"), None),
        (Fault(step=4, number=signal.SIGTERM, at="before rename"), None),
        (Fault(step=6, number=signal.SIGTERM, at="validation", rank=1), 6),
        (Fault(step=12, number=signal.SIGTERM, at="validation"), 12),
    ],
    ids=lambda value: value.at if isinstance(value, Fault) else "",
)
def test_a_stop_during_a_save_or_a_validation_loses_nothing(
    packed: Path, uninterrupted: Path, tmp_path: Path, fault: Fault, step: int | None
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    assert ranks.run_ranks(job, 2, fault) == [STOPPED, STOPPED]
    newest = complete_checkpoints(tmp_path / CHECKPOINTS_FOLDER)[-1]
    last = max(ranks.read_run(tmp_path))
    assert newest.name == f"step-{last:08d}" and last == (step or last)
    assert not list((tmp_path / LEASE_FOLDER).glob("*/*step-*")), "of a save that is not complete"
    finish(job)
    assert_same_run(tmp_path, uninterrupted)


def test_stop_and_change_of_world_size(packed: Path, uninterrupted: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings())
    # The signal reaches one rank only: all must agree. It comes during the step after `step`.
    stop = Fault(step=2, number=signal.SIGTERM, rank=1)
    assert ranks.run_ranks(job, 2, stop) == [STOPPED, STOPPED]
    [saved] = complete_checkpoints(tmp_path / CHECKPOINTS_FOLDER)
    assert saved.name == f"step-{max(ranks.read_run(tmp_path)):08d}" == "step-00000003"
    assert ranks.run_ranks(job, 1, Fault(step=6, number=signal.SIGTERM)) == [STOPPED]
    assert ranks.run_ranks(job, 2) == [0, 0]

    expected, found = ranks.read_run(uninterrupted), ranks.read_run(tmp_path)
    assert found.keys() == expected.keys()
    for step, metrics in expected.items():
        assert found[step] == pytest.approx(metrics, rel=1e-4), step
    # Ranks split a step in other ways; together they saw the same samples.
    assert ranks.read_samples(tmp_path) != {}
    for step, samples in ranks.read_samples(uninterrupted).items():
        assert set(ranks.read_samples(tmp_path)[step]) == set(samples)


def test_sharding_layer_by_layer_changes_nothing(
    packed: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(activation_checkpointing="full"))
    assert ranks.run_ranks(job, 2, SMALL_MODEL_PARAMETERS=0) == [0, 0]
    expected, found = ranks.read_run(uninterrupted), ranks.read_run(tmp_path)
    for step, metrics in expected.items():
        assert found[step] == pytest.approx(metrics, rel=1e-4), step


def test_ranks_talk_once_a_step(uninterrupted: Path) -> None:
    """Two micro-batches a step: weights gathered once, gradients reduced once, one agreement."""
    counted = json.loads((uninterrupted / "collectives-0.json").read_text())
    steps, validations = 12, 4
    held_out = counted["all_gather"] - steps
    # Once in each pass without gradients, after which the weights are freed.
    # Every batch is looked at twice: as it is routed, and with each layer's mean weights.
    assert 0 < held_out <= validations * 2 * 8, "a small model is one unit"
    assert counted["reduce_scatter"] == steps
    assert counted["all_reduce"] == steps + validations * 2


def test_deterministic_operations_are_not_only_wished_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own choice stays
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "0")
    try:
        use_deterministic_algorithms()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # a write of everything
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
        assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def test_deterministic_operations_train_the_same_model(
    packed: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(deterministic=True))
    assert ranks.run_ranks(job, 2) == [0, 0], (tmp_path / "rank-0.log").read_text()
    assert_same_run(tmp_path, uninterrupted)
