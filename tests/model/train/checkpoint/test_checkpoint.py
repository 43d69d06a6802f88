"""Checkpoints are whole or absent, and a damaged one is passed over by name."""

import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.errors import ConfigError, DataError, StageError
from model.train.checkpoint.folders import complete_checkpoints, read_info
from model.train.checkpoint.progress import Progress
from model.train.checkpoint.retention import CheckpointInfo
from model.train.checkpoint.staging import training_tensors
from model.train.run.folder import DATA_STATE_FILE, LEASE_FOLDER
from model.train.trainer import Trainer
from tests.model.train import ranks

MakeRun = Callable[..., Trainer]


def names(run: Trainer) -> list[str]:
    return [path.name for path in complete_checkpoints(run.checkpoints.folder)]


def state(run: Trainer) -> dict[str, torch.Tensor]:
    tensors = training_tensors(run.train_step.model_with_loss, run.train_step.optimizer)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def save(run: Trainer, step: int, *, wait: bool = True) -> None:
    entry = CheckpointInfo(step=step, regular=True, validation_loss=None)
    run.checkpoints.save(entry, state(run), {}, wait=wait)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def damage(file: Path, how: str) -> None:
    if how == "flipped bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()


@pytest.mark.parametrize(
    ("how", "file", "reason"),
    [
        ("flipped bit", "__0_0.distcp", "__0_0.distcp has another checksum"),
        ("truncated", ".metadata", ".metadata has"),
        ("removed", DATA_STATE_FILE, f"{DATA_STATE_FILE} is missing"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, how: str, file: str, reason: str
) -> None:
    run = make_run(steps=6, checkpoints={"interval": 2})
    run.fit()
    expected = state(run)
    assert names(run) == ["step-00000002", "step-00000004", "step-00000006"]
    damage(run.checkpoints.folder / "step-00000006" / file, how)
    again = make_run(steps=6, checkpoints={"interval": 2})
    with caplog.at_level(logging.WARNING):
        again.resume()
    assert again.progress.step == 4
    assert reason in caplog.text and "step-00000006" in caplog.text
    assert (run.checkpoints.folder / "step-00000006.damaged").is_dir()
    again.fit()
    assert_equal(state(again), expected)
    assert names(again) == ["step-00000002", "step-00000004", "step-00000006"]
    assert not list(again.checkpoints.folder.glob("*.damaged"))


def test_when_all_are_damaged_nothing_is_trained_anew_silently(make_run: MakeRun) -> None:
    run = make_run(steps=2, checkpoints={"interval": 1})
    run.fit()
    for folder in complete_checkpoints(run.checkpoints.folder):
        damage(folder / "__0_0.distcp", "truncated")
    with pytest.raises(DataError, match=r"every checkpoint in .* is damaged"):
        make_run(steps=2, checkpoints={"interval": 1}).resume()


def test_what_an_interrupted_save_left_is_neither_read_nor_kept(make_run: MakeRun) -> None:
    run = make_run(steps=2, checkpoints={"interval": 1}, schedule="constant")
    run.fit()
    folder = run.checkpoints.folder
    [session] = (folder.parent / LEASE_FOLDER).glob("*-*")
    shutil.copytree(folder / "step-00000002", session / "1f3a9c02-7-step-00000009")
    shutil.copytree(folder / "step-00000002", folder / "step-00000008")
    (folder / "step-00000008" / "complete.json").unlink()
    again = make_run(steps=3, checkpoints={"interval": 1}, schedule="constant")
    again.resume()
    assert again.progress == Progress(step=2, batch=2)
    assert again.callbacks["validation"].state() == {"last_step": 2}
    again.fit()
    assert not list((folder.parent / LEASE_FOLDER).glob("*/*step-00000009*"))


def test_what_is_kept_is_the_last_the_periodic_and_the_best(make_run: MakeRun) -> None:
    run = make_run(
        steps=11,
        eval_interval=2,
        checkpoints={"interval": 2, "keep_last": 2, "keep_every": 4, "keep_best": 1},
    )
    run.fit()
    folder = run.checkpoints.folder
    measured = ranks.read_run(folder.parent)
    losses = {step: measured[step]["validation/loss"] for step in (2, 4, 6, 8, 10, 11)}
    best = min(losses, key=losses.__getitem__)
    kept = {4, 8, 10, 11, best}
    assert names(run) == [f"step-{step:08d}" for step in sorted(kept)]
    for path in complete_checkpoints(folder):
        entry = read_info(path)
        assert entry.validation_loss == losses[entry.step]


def test_a_checkpoint_holds_the_state_of_its_moment(make_run: MakeRun) -> None:
    """Steps that are made while it is being written do not reach it."""
    run = make_run(steps=4)
    expected = state(run)
    tensors = training_tensors(run.train_step.model_with_loss, run.train_step.optimizer)
    entry = CheckpointInfo(step=2, regular=True, validation_loss=None)
    run.checkpoints.save(entry, tensors, {}, wait=False)
    for tensor in tensors.values():
        tensor.detach().fill_(7.0)
    run.checkpoints.wait()
    found = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    assert run.checkpoints.load_newest(found) is not None
    assert_equal(found, expected)


def test_a_save_that_failed_in_the_background_is_told_at_the_next_boundary(
    make_run: MakeRun,
) -> None:
    run = make_run(steps=4, checkpoints={"interval": 2})
    save(run, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        save(run, 4, wait=False)
        while not run.checkpoints.failed:
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run._step().save_failed, "all ranks learn it from the step's one message"
    with pytest.raises(StageError, match=r"step-00000004 could not be written .*File too large"):
        run.checkpoints.wait()
    assert names(run) == ["step-00000002"]
    assert not list(run.checkpoints.lease.folder.glob("*step-*"))


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_an_emptied_one_lets_it_go_on(
    packed: Path, tmp_path: Path, root: Path
) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        probe = subprocess.run([*namespace, "sh", "-c", "mount -t tmpfs none /mnt"], check=False)
    except FileNotFoundError:
        pytest.skip("needs the command unshare to mount a small disk")
    if probe.returncode:
        pytest.skip("this system does not let users mount a small disk in a namespace of their own")
    job = ranks.write_job(packed, tmp_path, ranks.settings(steps=30, checkpoints={"interval": 2}))
    program = Path(__file__).with_name("full_disk_program.py")
    done = subprocess.run(
        [*namespace, sys.executable, str(program), str(job)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert "step-00000004 could not be written" in result["error"]
    assert "No space left" in result["error"] and "make room there" in result["error"]
    assert 4 <= result["step"] < 30, "training went on until the save was known to have failed"
    assert result["full"] == ["step-00000002"]
    assert result["freed"] == ["step-00000026", "step-00000028", "step-00000030"]


def test_retention_keeps_the_newest(make_run: MakeRun) -> None:
    run = make_run(steps=5, checkpoints={"interval": 1, "keep_last": 2})
    run.fit()
    assert names(run) == ["step-00000004", "step-00000005"]
    assert len(list(run.checkpoints.folder.iterdir())) == 2


def test_another_batch_or_other_data_are_refused(make_run: MakeRun) -> None:
    make_run(steps=2).fit()
    with pytest.raises(ConfigError, match="global_batch_size = 4"):
        make_run(steps=2, global_batch_size=4).resume()
    with pytest.raises(DataError, match="seed of the checkpoint is 3, configured is 4"):
        make_run(steps=2, seed=4).resume()


def test_a_disk_that_refuses_a_checkpoint_leaves_the_others_alone(make_run: MakeRun) -> None:
    run = make_run(steps=4, checkpoints={"interval": 2})
    save(run, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # bytes; Python ignores SIGXFSZ
    try:
        with pytest.raises(
            StageError, match=r"step-00000004 could not be written .*File too large"
        ):
            save(run, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(run) == ["step-00000002"]


def test_another_model_is_refused(make_run: MakeRun) -> None:
    make_run(steps=1).fit()
    with pytest.raises(DataError, match="does not fit this model"):
        make_run(steps=1, model={**ranks.TINY, "num_hidden_layers": 3}).resume()


def test_the_index_loads_nothing_but_an_index(make_run: MakeRun) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    run = make_run(steps=1)
    run.fit()
    [folder] = complete_checkpoints(run.checkpoints.folder)
    index = folder / ".metadata"
    index.write_bytes(pickle.dumps(Evil()))
    marker = json.loads((folder / "complete.json").read_text())
    del marker["files"][".metadata"]
    (folder / "complete.json").write_text(json.dumps(marker))
    with pytest.raises(DataError, match=r"names builtins\.print"):
        make_run(steps=1).resume()
