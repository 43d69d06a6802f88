"""SFT: what is learned, that documents stay apart, and that a killed run ends as if nothing was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import DataError, StageError
from model.train.checkpoint.folders import MARKER, complete_checkpoints
from model.train.finetune.build import load_tokenizer
from model.train.finetune.config import SftJob, SftSettings
from model.train.run.folder import (
    DATA_STATE_FILE,
    METRICS_FILE,
    MIXTURE_FILE,
    MODEL_FOLDER,
    PROGRESS_FILE,
)
from model.train.run.lease import EXIT_REPLACED
from model.train.run.metrics import read_metrics
from tests.model.train.finetune.gradients import chatml
from tests.model.train.finetune.recording import Killed, curve, train, weights
from tests.processes import PATIENCE_SECONDS
from tests.tiny_chat import byte_tokenizer, conversations, write_lines, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def make_job(base: Path, tmp_path: Path) -> Callable[..., SftJob]:
    def make(
        name: str = "run", rows: list[dict[str, Any]] | None = None, **settings: Any
    ) -> SftJob:
        output = tmp_path / name
        (output / "scratch").mkdir(parents=True)
        data = write_lines(output / MIXTURE_FILE, conversations(12) if rows is None else rows)
        job = SftJob(
            settings=SftSettings(
                **{
                    "micro_batch_size": 4,
                    "global_batch_size": 4,
                    "max_length": 256,
                    "learning_rate": 1e-2,
                    "log_interval": 1,
                    **settings,
                }
            ),
            model=str(base),
            data=str(data),
            output=str(output),
            scratch=str(output / "scratch"),
        )
        write_config(job)
        return job

    return make


def run(job: SftJob, kill_after: int | None = None, **options: Any) -> Path:
    """Train in this process; returns the job's output."""
    output = Path(job.output)
    assert train("sft", output, kill_after, **options) == 0
    return output


def first_loss(job: SftJob) -> float:
    return float(curve(run(job))[0][1]["train/loss"])


def mean_loss(folder: str, rows: list[tuple[list[int], list[int]]]) -> float:
    """Cross entropy a target, each conversation alone in a batch of one, from plain logits."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, targets = 0.0, 0
    for ids, labels in rows:
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0, :-1]
        goal = torch.tensor(labels[1:])
        total += functional.cross_entropy(logits, goal, ignore_index=-100, reduction="sum").item()
        targets += int((goal != -100).sum())
    return total / targets


@pytest.mark.parametrize("packing", [False, True])
def test_loss_is_the_mean_over_the_assistants_tokens(
    make_job: Callable[..., SftJob], packing: bool
) -> None:
    rows = conversations(12)
    job = make_job(rows=rows, packing=packing, global_batch_size=12, epochs=1)
    expected = mean_loss(job.model, [chatml(row["messages"]) for row in rows])
    assert first_loss(job) == pytest.approx(expected, rel=1e-5)


def test_a_conversation_whose_answer_is_cut_off_is_left_out(
    make_job: Callable[..., SftJob],
) -> None:
    rows = conversations(3)
    rows[1]["messages"][0]["content"] = "长" * 200
    job = make_job(rows=rows, epochs=1)
    assert curve(run(job))[-1][1]["data/samples"] == 2
    with pytest.raises(DataError, match="max_length = 16"):
        run(make_job("short", rows=rows, max_length=16))


def test_training_lowers_the_loss_and_publishes_a_chat_model(
    make_job: Callable[..., SftJob],
) -> None:
    job = make_job(epochs=8)
    output = run(job)
    folder = output / MODEL_FOLDER
    losses = [metrics["train/loss"] for _, metrics in curve(output)]
    assert losses[-1] < losses[0] - 1
    assert not [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    assert tokenizer.eos_token == "<|endoftext|>"
    stops = AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id
    assert set(stops) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    written = metrics_of(job).read_bytes()
    run(job)
    assert metrics_of(job).read_bytes() == written, "a finished run was trained again"


def test_killed_run_ends_as_an_uninterrupted_one(make_job: Callable[..., SftJob]) -> None:
    whole, killed = (
        make_job(name, epochs=5, checkpoint_interval=4) for name in ("whole", "killed")
    )
    run(whole)
    child = start(killed)
    wait_for(lambda: len(list(read_metrics(metrics_of(killed)))) >= 7, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # What a kill in the middle of a save leaves: the highest number, without its end.
    torn = Path(killed.scratch) / "step-00000009"
    torn.mkdir()
    (torn / PROGRESS_FILE).write_text("{")
    finish(killed)
    assert weights(Path(killed.output)) == weights(Path(whole.output))
    assert curve(Path(killed.output)) == curve(Path(whole.output))
    assert [step for step, _ in curve(Path(killed.output))] == list(range(1, 16))


@pytest.mark.slow
def test_a_process_that_was_replaced_ends_without_writing(make_job: Callable[..., SftJob]) -> None:
    whole, job = (make_job(name, epochs=5, checkpoint_interval=4) for name in ("whole", "stopped"))
    run(whole)
    old = start(job)
    wait_for(lambda: len(list(read_metrics(metrics_of(job)))) >= 6, old)
    old.send_signal(signal.SIGSTOP)
    finish(job)
    files = contents(Path(job.output))
    old.send_signal(signal.SIGTERM)  # as the death of its launcher does
    old.send_signal(signal.SIGCONT)
    assert old.wait(PATIENCE_SECONDS) == EXIT_REPLACED
    assert contents(Path(job.output)) == files
    assert weights(Path(job.output)) == weights(Path(whole.output))
    assert curve(Path(job.output)) == curve(Path(whole.output))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log, and what the process may leave where nothing looks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "log" and "lease" not in path.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
def test_sigterm_at_any_step_changes_nothing(make_job: Callable[..., SftJob], keep: str) -> None:
    rows = conversations(130)
    options = {"epochs": 1, "checkpoint_interval": 7, "log_interval": 3, "global_batch_size": 8}
    options |= {"keep": keep, "activation_checkpointing": True, "eval_interval": 4}
    whole, job = (make_job(name, rows, **options) for name in ("whole", "stopped"))
    run(whole)
    for lines in (2, 4, 7):
        child = start(job)
        wait_for(lambda lines=lines: len(list(read_metrics(metrics_of(job)))) >= lines, child)  # type: ignore[misc]
        child.terminate()
        assert child.wait(PATIENCE_SECONDS) in (0, 143)
    finish(job)
    assert curve(Path(job.output)) == curve(Path(whole.output))
    assert weights(Path(job.output)) == weights(Path(whole.output))
    assert any("validation/loss" in metrics for _, metrics in curve(Path(job.output)))


def kinds(checkpoint: Path) -> dict[str, Path]:
    """A file of each kind of those in a checkpoint."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER]
    return {path.suffix or path.name: path for path in files} | {
        path.name: path for path in files if path.suffix == ".json" and path.parent == checkpoint
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_flipped_bit_in_any_file_of_the_newest_checkpoint_is_found(
    make_job: Callable[..., SftJob], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"epochs": 2, "checkpoint_interval": 1}
    whole, killed = (make_job(name, **options) for name in ("whole", "killed"))
    run(whole)
    with pytest.raises(Killed):
        run(killed, kill_after=4)
    saved = Path(killed.output)
    newest = complete_checkpoints(saved / "scratch")[-1]
    found = kinds(newest)
    assert {".distcp", ".metadata", PROGRESS_FILE, DATA_STATE_FILE, "model.json"} <= {*found}
    aside = tmp_path / "aside"
    shutil.copytree(saved, aside)
    for path in found.values():
        shutil.rmtree(saved)
        shutil.copytree(aside, saved)
        caplog.clear()
        flip(path)
        run(killed)
        assert f"{newest.name} is damaged ({path.relative_to(newest)}" in caplog.text
        assert curve(saved) == curve(Path(whole.output))
        assert weights(saved) == weights(Path(whole.output))


def test_a_last_checkpoint_that_was_damaged_is_never_published(
    make_job: Callable[..., SftJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, job = (make_job(name, epochs=2, checkpoint_interval=2) for name in ("whole", "run"))
    run(whole)

    def damage(trainer: Any) -> None:
        original = trainer.fit

        def fit() -> None:
            original()
            flip(next(complete_checkpoints(Path(job.scratch))[-1].glob("*.distcp")))

        trainer.fit = fit

    with pytest.raises(StageError, match=r"step-00000006 is damaged: .*distcp"):
        run(job, prepare=damage)
    assert not (Path(job.output) / MODEL_FOLDER).exists()
    run(job)  # from the one before it
    assert weights(Path(job.output)) == weights(Path(whole.output))
    assert curve(Path(job.output)) == curve(Path(whole.output))


def test_every_checkpoint_damaged_is_an_error(make_job: Callable[..., SftJob]) -> None:
    job = make_job(epochs=2, checkpoint_interval=1)
    with pytest.raises(Killed):
        run(job, kill_after=4)
    for checkpoint in complete_checkpoints(Path(job.scratch)):
        flip(checkpoint / PROGRESS_FILE)
    with pytest.raises(DataError, match=r"every checkpoint in .* is damaged"):
        run(job)


def test_keep_best_publishes_the_lowest_validation_loss(make_job: Callable[..., SftJob]) -> None:
    rows = conversations(130)
    options: dict[str, Any] = {"epochs": 2, "global_batch_size": 16, "eval_interval": 3}
    # A rate that ruins the model: its best validation is not the last.
    options |= {"learning_rate": 0.5, "schedule": "constant", "checkpoint_interval": 5}
    job = make_job("best", rows, keep="best", validation_fraction=0.05, **options)
    found = {
        step: metrics["validation/loss"]
        for step, metrics in curve(run(job))
        if "validation/loss" in metrics
    }
    best = min(found, key=lambda step: (found[step], step))
    steps = max(found)
    assert list(found) == sorted({*range(3, steps, 3), steps})
    assert best != steps, "the test needs a best one before the end"
    last = make_job("last", rows, validation_fraction=0.05, **{**options, "max_steps": best})
    assert weights(Path(job.output)) == weights(run(last))


def test_a_loss_that_is_not_finite_ends_the_run(
    make_job: Callable[..., SftJob], tmp_path: Path
) -> None:
    broken = write_model(tmp_path / "broken")
    network = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        network.lm_head.weight[5] = float("inf")
    network.save_pretrained(broken)
    job = replace(make_job(), model=str(broken))
    write_config(job)
    with pytest.raises(StageError, match="lower learning_rate"):
        run(job)
    assert not (Path(job.output) / MODEL_FOLDER).exists()


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="chat template"):
        load_tokenizer(str(folder))


def write_config(job: SftJob) -> Path:
    config = Path(job.output) / "sft.json"
    config.write_text(json.dumps(asdict(job)))
    return config


def start(job: SftJob) -> "subprocess.Popen[bytes]":
    """The entry in a process of its own, as the launcher runs a world of one."""
    with (Path(job.output) / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "model.entry.sft", str(write_config(job))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "WORLD_SIZE": "1",
                "RANK": "0",
                "LOCAL_RANK": "0",
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
        )


def finish(job: SftJob) -> str:
    """Run to the end in a process of its own; returns the log."""
    code = start(job).wait(PATIENCE_SECONDS)
    log = (Path(job.output) / "log").read_text()
    assert code == 0, log
    return log


def wait_for(condition: Callable[[], bool], child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if child.poll() == 0:  # it was faster
            return
        assert child.poll() is None, "the entry ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def metrics_of(job: SftJob) -> Path:
    return Path(job.output) / METRICS_FILE
