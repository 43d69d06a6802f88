"""Each step of SFT has the loss and the gradient of a plain loop over its samples."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.train import ranks
from tests.model.train.finetune import gradients
from tests.model.train.finetune.recording import curve, log_of, make_job, seen
from tests.tiny_chat import conversations

pytestmark = pytest.mark.usefixtures("in_this_process")


def slow(*case: Any) -> Any:
    """Parameters of a test of several processes, which take a while to start."""
    return pytest.param(*case, marks=pytest.mark.slow)


def run(num_ranks: int, *job: Any) -> None:
    output: Path = job[1]
    if num_ranks == 1:
        assert gradients.train(*job) == 0
    else:
        codes = ranks.run_function(gradients.train_in_rank, num_ranks, *job)
        assert codes == [0] * num_ranks, log_of(output)


def check(output: Path, expected: Iterator[tuple[int, float, gradients.Gradients]]) -> list[int]:
    """Compare every step; returns the number of samples of each."""
    lines = dict(curve(output))
    sizes = []
    for step, loss, wanted in expected:
        found = gradients.saved_gradients(output, step)
        assert lines[step]["train/loss"] == pytest.approx(loss, rel=2e-5), step
        norm = torch.stack([g.norm() for g in wanted.values()]).norm().item()
        assert lines[step]["train/grad_norm"] == pytest.approx(norm, rel=1e-4), step
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            error = (found[name] - gradient).norm().item()
            assert error <= 1e-4 * norm, (step, name, error, norm)
        sizes.append(sum(seen(output)[step].values()))
    assert len(sizes) == len(lines)
    return sizes


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize(
    ("num_ranks", "packing", "grouped"),
    [
        *itertools.product((1,), (False, True), (False, True)),
        (2, False, True),
        *(slow(2, *case) for case in ((False, False), (True, False), (True, True))),
    ],
)
def test_a_step_of_sft_is_the_mean_over_the_targets_of_all_its_conversations(
    base: Path, tmp_path: Path, num_ranks: int, packing: bool, grouped: bool
) -> None:
    rows = conversations(19)
    for row in rows[::4]:  # answers of very different lengths: a mean of means would be another
        row["messages"][-1]["content"] *= 9
    length = 200
    settings = {"packing": packing, "group_by_length": grouped, "max_length": length}
    settings |= {"micro_batch_size": 2, "global_batch_size": 8}
    make_job("sft", base, tmp_path, rows, **gradients.SETTINGS, **settings)
    run(num_ranks, "sft", tmp_path)
    sizes = check(tmp_path, gradients.sft_steps(base, tmp_path, rows, length))
    assert sum(sizes) == 19
    assert len(sizes) > 1


@pytest.mark.usefixtures("fork_server")
def test_every_split_of_a_step_has_one_loss_and_gradient(base: Path, tmp_path: Path) -> None:
    rows = conversations(16)
    for row in rows[::5]:
        row["messages"][-1]["content"] *= 11
    splits = [
        *((1, micro, packing) for micro in (8, 4, 1) for packing in (False, True)),
        (2, 2, True),
    ]
    found = []
    for number, (num_ranks, micro, packing) in enumerate(splits):
        output = tmp_path / str(number)
        settings = {"micro_batch_size": micro, "global_batch_size": 8, "packing": packing}
        make_job("sft", base, output, rows, **gradients.SETTINGS, **settings)
        run(num_ranks, "sft", output)
        found.append((dict(curve(output)), gradients.saved_gradients(output, 1)))
    lines, wanted = found[0]
    norm = torch.stack([g.norm() for g in wanted.values()]).norm().item()
    for others, gradient in found[1:]:
        assert others.keys() == lines.keys() == {1, 2}
        for step, line in lines.items():
            assert others[step]["train/loss"] == pytest.approx(line["train/loss"], rel=1e-6)
            assert others[step]["train/targets"] == line["train/targets"]
        for name, values in wanted.items():
            assert (gradient[name] - values).norm().item() <= 3e-6 * norm, name
