"""A forward pass without gradients, at any moment, leaves no trace in a sharded training."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from model.train.config import PretrainSettings
from model.train.distributed import context
from model.train.distributed.config import ParallelSettings
from model.train.distributed.context import distributed_context, synchronise_gradients
from model.train.loss import ModelWithLoss
from model.train.optim.optimizer import build_optimizer
from tests.model.train import ranks
from tests.model.train.finetune import recording
from tests.model.train.finetune.recording import curve, log_of, make_job, weights
from tests.model.train.programs import place
from tests.tiny_chat import conversations, pairs, write_model

pytestmark = pytest.mark.usefixtures("fork_server")

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "expert_intermediate_size": 8,
}


def train_and_measure(output: Path, packed: Path, measures: bool, reshard: bool) -> None:
    """Two steps; `measures`: a forward pass without gradients before the optimizer is made, before
    each step, and between its micro-batches."""
    context.SMALL_MODEL_PARAMETERS = 0
    with distributed_context() as of_run:
        settings = PretrainSettings(
            model=TINY, learning_rate=0.1, parallel=ParallelSettings(reshard_after_forward=reshard)
        )
        model = place(settings, packed, of_run)
        ids = torch.arange(64).view(2, 32) % 60 + 2 * of_run.rank

        def measure() -> None:
            if measures:
                with torch.no_grad():
                    model(ids, ids)
                assert all(isinstance(p, DTensor) for p in model.parameters())

        measure()
        optimizer = build_optimizer(model, settings)
        for _ in range(2):
            measure()
            for number in range(2):
                synchronise_gradients(model, last=number == 1, free_weights=reshard)
                model(ids + number, ids.roll(-1, dims=1)).mean().backward()
                if number == 0:
                    measure()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        measure()
        whole = {k: v.full_tensor() for k, v in model.state_dict().items()}
        if of_run.is_main:
            save_file(whole, output)


@pytest.mark.parametrize("reshard", [pytest.param(True, marks=pytest.mark.slow), False])
def test_weights_are_those_of_a_training_without_it(
    packed: Path, tmp_path: Path, reshard: bool
) -> None:
    found = []
    for measures in (False, True):
        path = tmp_path / f"{measures}.safetensors"
        assert ranks.run_function(train_and_measure, 2, path, packed, measures, reshard) == [0, 0]
        found.append(load_file(path))
    for name, expected in found[0].items():
        assert torch.equal(found[1][name], expected), name


def optimize_gathered_weights(packed: Path) -> None:
    """Exits with 0 where an optimizer over gathered weights is refused."""
    with distributed_context() as of_run:
        model: ModelWithLoss = place(PretrainSettings(model=TINY), packed, of_run)
        ids = torch.arange(64).view(2, 32) % 60
        model(ids, ids)
        try:
            build_optimizer(model, PretrainSettings(model=TINY))
        except RuntimeError as error:
            sys.exit("gathered" not in str(error))
        sys.exit(1)


def test_an_optimizer_over_gathered_weights_is_refused(packed: Path) -> None:
    assert ranks.run_function(optimize_gathered_weights, 2, packed) == [0, 0]


def some_held_out(method: str, output: Path) -> None:
    """Train in a rank of several; sets of any size hold out some."""
    from model.train.finetune import held_out

    held_out.MIN_ROWS = 1
    recording.train_in_rank(method, output)


@pytest.mark.slow
@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_ranks_learn_as_one_with_validation(
    tmp_path: Path,
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    reshard: bool,
) -> None:
    """Validation at each step, and the reference of DPO before the first."""
    from model.train.finetune import held_out

    monkeypatch.setattr(held_out, "MIN_ROWS", 1)
    model = write_model(tmp_path / "model")
    settings: dict[str, Any] = {
        "validation_fraction": 0.3,
        "eval_interval": 1,
        "micro_batch_size": 1,
        "learning_rate": 1e-3,
        "parallel": ParallelSettings(reshard_after_forward=reshard),
    }
    rows = conversations(18) if method == "sft" else pairs(18)
    for name in ("one", "two"):
        make_job(method, model, tmp_path / name, rows, **settings)
    assert recording.train(method, tmp_path / "one") == 0
    codes = ranks.run_function(some_held_out, 2, method, tmp_path / "two")
    assert codes == [0, 0], log_of(tmp_path / "two")
    expected, found = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert sum("validation/loss" in line for _, line in expected) > 4
    for (step, line), (_, wanted) in zip(found, expected, strict=True):
        assert line == pytest.approx(wanted, rel=1e-3, abs=1e-5), step
    assert weights(tmp_path / "two") != (model / "model.safetensors").read_bytes()
