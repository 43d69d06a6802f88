"""SFT: what is learned, that documents stay apart, and that a killed run ends as if nothing was."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import from_json
from common.errors import DataError, StageError
from model.entry import sft
from model.train.distributed.signals import StopFlag
from model.train.finetune.checkpoints import complete_checkpoints, mark_complete
from model.train.finetune.config import SftJob, SftSettings
from model.train.finetune.fit import fit
from model.train.finetune.recorder import Recorder
from model.train.finetune.trainer import load_tokenizer, make_trainer
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.lease import EXIT_REPLACED
from model.train.run.metrics import JsonlSink, read_metrics
from tests.model.train.finetune.gradients import chatml
from tests.tiny_chat import byte_tokenizer, conversations, write_lines, write_model

PATIENCE_SECONDS = 200


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make_job(base: Path, tmp_path: Path) -> Callable[..., SftJob]:
    def make(
        name: str = "run", rows: list[dict[str, Any]] | None = None, **settings: Any
    ) -> SftJob:
        output = tmp_path / name
        (output / "scratch").mkdir(parents=True)
        data = write_lines(output / "mixture.jsonl", conversations(12) if rows is None else rows)
        return SftJob(
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

    return make


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[SftJob], int]]:
    """Run the entry here, without taking pytest's signals, on one thread as its processes do."""
    monkeypatch.setattr(StopFlag, "install", lambda self: self)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda job: fit(from_json(SftJob, write_config(job)), sft.build)
    torch.set_num_threads(threads)


def build(job: SftJob) -> Any:
    recorder = Recorder(JsonlSink(Path(job.output) / METRICS_FILE), StopFlag())
    return make_trainer(job, sft.build, recorder)


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


def test_only_the_assistants_tokens_are_targets(make_job: Callable[..., SftJob]) -> None:
    rows = conversations(12)
    trainer = build(make_job(rows=rows))
    prepared = [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]
    assert prepared == [chatml(row["messages"]) for row in rows]


def test_loss_is_the_mean_over_the_assistants_tokens(make_job: Callable[..., SftJob]) -> None:
    rows = conversations(4)
    job = make_job(rows=rows)
    trainer = build(job)
    (batch,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    expected = mean_loss(job.model, [chatml(row["messages"]) for row in rows])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_packed_conversations_do_not_see_each_other(make_job: Callable[..., SftJob]) -> None:
    rows = conversations(12)
    job = make_job(rows=rows, packing=True, max_length=512, micro_batch_size=8, global_batch_size=8)
    trainer = build(job)
    assert len(trainer.train_dataset) < len(rows) / 2, "nothing was packed"
    (batch,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    expected = mean_loss(job.model, [chatml(row["messages"]) for row in rows])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_conversation_whose_answer_is_cut_off_is_left_out(
    make_job: Callable[..., SftJob],
) -> None:
    rows = conversations(3)
    rows[1]["messages"][0]["content"] = "长" * 200
    assert len(build(make_job(rows=rows)).train_dataset) == 2
    with pytest.raises(DataError, match="max_length = 16"):
        build(make_job("short", rows=rows, max_length=16))


def test_training_lowers_the_loss_and_publishes_a_chat_model(
    make_job: Callable[..., SftJob], in_process: Callable[[SftJob], int]
) -> None:
    job = make_job(epochs=8)
    assert in_process(job) == 0
    folder = Path(job.output) / MODEL_FOLDER
    losses = [line["metrics"]["train/loss"] for line in read_metrics(metrics_of(job))]
    assert losses[-1] < losses[0] - 1
    assert not [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    assert tokenizer.eos_token == "<|endoftext|>"
    stops = AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id
    assert set(stops) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    written = metrics_of(job).read_bytes()
    assert in_process(job) == 0
    assert metrics_of(job).read_bytes() == written, "a finished run was trained again"


def test_killed_run_ends_as_an_uninterrupted_one(
    make_job: Callable[..., SftJob], in_process: Callable[[SftJob], int]
) -> None:
    whole, killed = (
        make_job(name, epochs=5, checkpoint_interval=4) for name in ("whole", "killed")
    )
    assert in_process(whole) == 0
    child = start(killed)
    wait_for(lambda: len(list(read_metrics(metrics_of(killed)))) >= 7, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # What a kill in the middle of a save leaves: the highest number, without its end.
    torn = Path(killed.scratch) / "checkpoint-9"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    log = finish(killed)
    assert "checkpoint-9 is incomplete" in log
    assert weights_of(killed) == weights_of(whole)
    assert curve(killed) == curve(whole)
    assert [step for step, _ in curve(killed)] == list(range(1, 16))


@pytest.mark.slow
def test_a_process_that_was_replaced_ends_without_writing(
    make_job: Callable[..., SftJob], in_process: Callable[[SftJob], int]
) -> None:
    whole, job = (make_job(name, epochs=5, checkpoint_interval=4) for name in ("whole", "stopped"))
    assert in_process(whole) == 0
    old = start(job)
    wait_for(lambda: len(list(read_metrics(metrics_of(job)))) >= 6, old)
    old.send_signal(signal.SIGSTOP)
    finish(job)
    files = contents(Path(job.output))
    old.send_signal(signal.SIGTERM)  # as the death of its launcher does
    old.send_signal(signal.SIGCONT)
    assert old.wait(PATIENCE_SECONDS) == EXIT_REPLACED
    assert contents(Path(job.output)) == files
    assert weights_of(job) == weights_of(whole)
    assert curve(job) == curve(whole)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log, and what the process may leave where nothing looks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "log" and "lease" not in path.parts
    }


@pytest.mark.slow
def test_sigterm_saves_and_the_end_of_training_is_not_trained_twice(
    make_job: Callable[..., SftJob], in_process: Callable[[SftJob], int]
) -> None:
    job = make_job(epochs=40, checkpoint_interval=1000)
    child = start(job)
    wait_for(lambda: len(list(read_metrics(metrics_of(job)))) >= 3, child)
    child.terminate()
    assert child.wait() == 143
    (checkpoint,) = complete_checkpoints(Path(job.scratch))
    steps = len(curve(job))
    assert checkpoint.name == f"checkpoint-{steps}"
    # A run that ended with its last checkpoint but was killed before it published the model.
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"max_steps": steps}))
    mark_complete(checkpoint, steps)
    assert in_process(job) == 0
    assert len(curve(job)) == steps
    assert weights_of(job) == (checkpoint / "model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_ends_the_run(
    make_job: Callable[..., SftJob], tmp_path: Path
) -> None:
    broken = write_model(tmp_path / "broken")
    network = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        network.lm_head.weight[5] = float("inf")
    network.save_pretrained(broken)
    job = make_job()
    trainer = build(SftJob(**{**vars(job), "model": str(broken)}))
    with pytest.raises(StageError, match="learning rate"):
        trainer.train()


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
    with (Path(job.output) / "log").open("wb") as log:
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
        assert child.poll() is None, "the entry ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def metrics_of(job: SftJob) -> Path:
    return Path(job.output) / METRICS_FILE


def curve(job: SftJob) -> list[tuple[int, float]]:
    return [(line["step"], line["metrics"]["train/loss"]) for line in read_metrics(metrics_of(job))]


def weights_of(job: SftJob) -> bytes:
    return (Path(job.output) / MODEL_FOLDER / "model.safetensors").read_bytes()
