"""Each step of DPO has the loss and the gradient of a plain loop over its pairs, on any split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from model.train.finetune.batches import StepOrder
from model.train.finetune.config import DpoJob
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import read_metrics
from model.train.trainer import Trainer
from tests.model.train import ranks
from tests.model.train.finetune import recording
from tests.model.train.finetune.gradients import Gradients, save_gradients, saved_gradients
from tests.model.train.finetune.preferences import jobs
from tests.tiny_chat import byte_tokenizer, pairs, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")

SETTINGS = {"learning_rate": 1e-30, "max_grad_norm": 1e9, "beta": 0.3, "epochs": 2}
"""Weights stay what they are, and gradients are not clipped."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that is not the policy, so that margins are not 0."""
    return write_model(tmp_path_factory.mktemp("other"), seed=1)


def some_rows(count: int = 11) -> list[dict[str, Any]]:
    """Pairs of very different lengths, in two sets."""
    rows = pairs(count)
    for row in rows[::3]:
        row["chosen"][0]["content"] *= 6
        row["set"] = "long"
    return rows


def train(job: DpoJob, reference: Path) -> None:
    """Run a job whose reference is another model, and save each step's gradient."""

    def watch(trainer: Trainer, method: Any) -> None:
        network = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()
        values = [_reference(network, *method.samples[n]) for n in range(len(method.samples))]
        method.reference = type(method.reference)(
            values=torch.cat(values).numpy(), starts=method.reference.starts
        )
        save_gradients(trainer, Path(job.output))

    assert jobs.run(job, watch) == 0


def _reference(network: Any, prompt: Any, *answers: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([_token_log_probs(network, [*prompt], [*answer]) for answer in answers])


def _token_log_probs(network: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    picked: torch.Tensor = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    return picked


def in_rank(job: DpoJob, reference: Path) -> None:
    """`train` in a process of its own."""
    recording.write_log(Path(job.output))
    train(job, reference)


def plain_loop(
    job: DpoJob, reference: Path, rows: list[dict[str, Any]], order: list[list[int]]
) -> Iterator[tuple[float, float, Gradients]]:
    """(loss, share of margins above 0, gradient) of steps of the pairs of these numbers."""
    networks = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (job.model, reference)
    ]
    for numbers in order:
        networks[0].zero_grad()
        losses, right = [], 0.0
        for row in (rows[n] for n in numbers):
            gaps = []
            for key in ("chosen", "rejected"):
                of_policy, of_reference = (_answer(network, row, key) for network in networks)
                gaps.append((of_policy.sum() - of_reference.sum().detach(), len(of_policy)))
            losses.append(LOSSES[job.settings.loss](*gaps, 0.3))
            right += float(gaps[0][0] > gaps[1][0])
        loss = torch.stack(losses).mean()
        loss.backward()
        found = {name: p.grad.clone() for name, p in networks[0].named_parameters()}
        yield loss.item(), right / len(numbers), found


def _answer(network: Any, row: dict[str, Any], key: str) -> torch.Tensor:
    """log P of each token of an answer and its end token; ChatML by hand."""
    tokenizer = byte_tokenizer()
    head = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{row['prompt'][0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    )
    texts = head, f"{row[key][0]['content']}<|im_end|>"
    prompt, answer = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts)
    return _token_log_probs(network, prompt, answer)


LOSSES: dict[str, Any] = {
    "sigmoid": lambda c, r, beta: -functional.logsigmoid(beta * (c[0] - r[0])),
    "hinge": lambda c, r, beta: functional.relu(1 - beta * (c[0] - r[0])),
    "ipo": lambda c, r, beta: (c[0] / c[1] - r[0] / r[1] - 1 / (2 * beta)) ** 2,
}


def orders(job: DpoJob) -> list[list[int]]:
    """Pairs of each step, by number."""
    settings = job.settings
    order = StepOrder(
        num_samples=11, global_batch_size=settings.global_batch_size, seed=settings.seed
    )
    return [order.samples(step).tolist() for step in range(2 * order.steps_in_epoch)]


def check(job: DpoJob, reference: Path, rows: list[dict[str, Any]]) -> None:
    lines = {
        line["step"]: line["metrics"]
        for line in read_metrics(Path(job.output) / METRICS_FILE)
        if "train/loss" in line["metrics"]
    }
    expected = list(plain_loop(job, reference, rows, orders(job)))
    assert len(lines) == len(expected)
    for step, (loss, right, wanted) in enumerate(expected, start=1):
        assert lines[step]["train/loss"] == pytest.approx(loss, rel=2e-5), step
        assert lines[step]["train/preference_accuracy"] == pytest.approx(right), step
        norm = torch.stack([g.norm() for g in wanted.values()]).norm().item()
        assert lines[step]["train/grad_norm"] == pytest.approx(norm, rel=1e-4), step
        found = saved_gradients(Path(job.output), step)
        for name, gradient in wanted.items():
            error = (found[name] - gradient).norm().item()
            assert error <= 1e-4 * norm, (step, name, error, norm)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_a_step_is_the_mean_over_its_pairs(
    base: Path, other: Path, tmp_path: Path, loss: str
) -> None:
    rows = some_rows()
    job = jobs.make_job(base, tmp_path, rows, **SETTINGS, loss=loss, global_batch_size=4)
    train(job, other)
    check(job, other, rows)


@pytest.mark.parametrize(("micro_batch_size"), [1, 2, 8])
def test_micro_batches_change_nothing(
    base: Path, other: Path, tmp_path: Path, micro_batch_size: int
) -> None:
    rows = some_rows()
    sizes = {"micro_batch_size": micro_batch_size, "global_batch_size": 8}
    # Rows hold as many tokens as the longest pairs may have.
    job = jobs.make_job(base, tmp_path, rows, **SETTINGS, **sizes, max_length=150)
    train(job, other)
    check(job, other, rows)


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_two_ranks_make_the_same_step(base: Path, other: Path, tmp_path: Path, loss: str) -> None:
    """Of eleven pairs in steps of ten: the last step leaves one rank without a pair."""
    rows = some_rows()
    sizes = {"micro_batch_size": 1, "global_batch_size": 10}
    job = jobs.make_job(base, tmp_path, rows, **SETTINGS, **sizes, loss=loss)
    codes = ranks.run_function(in_rank, 2, job, other)
    assert codes == [0, 0], recording.log_of(tmp_path)
    check(job, other, rows)
