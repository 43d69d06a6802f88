"""Muon on shards: whole matrices, the same training on any ranks, the same bits after a kill."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from model.train.checkpoint.folders import complete_checkpoints
from model.train.checkpoint.reader import read_tensors
from model.train.config import PretrainSettings
from model.train.distributed import context
from model.train.distributed.config import ParallelSettings
from model.train.distributed.context import distributed_context
from model.train.optim.optimizer import build_optimizer
from model.train.run.folder import CHECKPOINTS_FOLDER, HEALTH_FILE, MODEL_FOLDER
from tests.model.train import ranks
from tests.model.train.distributed.test_parallel import ARCHITECTURES
from tests.model.train.programs import place
from tests.model.train.ranks import Fault

pytestmark = pytest.mark.usefixtures("fork_server")

MUON = {"optimizer": "muon", "muon": {"learning_rate_factor": 2.0}}
STOPPED = 143


def muon_settings(**changes: Any) -> dict[str, Any]:
    return ranks.settings(**{**MUON, **changes})


def finish(job: Path, world_size: int, **constants: int) -> None:
    codes = ranks.run_ranks(job, world_size, **constants)
    assert codes == [0] * world_size, (job.parent / "rank-0.log").read_text()


def weights(output: Path) -> bytes:
    return (output / MODEL_FOLDER / "model.safetensors").read_bytes()


def assert_alike(found: Path, expected: Path) -> None:
    """The same figures up to rounding, at every step."""
    wanted, there = ranks.read_run(expected), ranks.read_run(found)
    assert there.keys() == wanted.keys()
    for step, metrics in wanted.items():
        assert there[step] == ranks.alike(metrics), step


@pytest.fixture(scope="module")
def on_two(packed: Path, fork_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a run of two ranks that nothing disturbed."""
    output = tmp_path_factory.mktemp("muon")
    finish(ranks.write_job(packed, output, muon_settings()), 2)
    return output


def step_of_random_gradients(output: Path, packed: Path, shard: int | str, by_layer: bool) -> None:
    """Rank 0 writes every weight, whole, after two steps with gradients drawn from a seed."""
    if by_layer:
        context.SMALL_MODEL_PARAMETERS = 0
    with distributed_context() as here:
        settings = PretrainSettings(
            model=ranks.TINY,
            optimizer="muon",
            learning_rate=0.05,
            weight_decay=0.1,
            parallel=ParallelSettings(shard=shard),
        )
        model = place(settings, packed, here)
        optimizer = build_optimizer(model, settings)
        generator = torch.Generator().manual_seed(11)
        for _ in range(2):
            for parameter in model.parameters():
                whole = torch.randn(parameter.shape, generator=generator)
                parameter.grad = whole
                if isinstance(parameter, DTensor):
                    parameter.grad = torch.distributed.tensor.distribute_tensor(
                        whole, parameter.device_mesh, parameter.placements
                    )
            optimizer.step()
        found = {
            name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
            for name, t in model.named_parameters()
        }
        if here.is_main:
            save_file(found, output)


@pytest.mark.parametrize(
    ("world_size", "shard", "by_layer"),
    [(2, "all", False), (3, "all", True), (4, 2, False), (2, 1, False)],
    ids=["two ranks", "three, layer by layer", "two copies of two", "a copy each"],
)
def test_an_update_of_shards_is_that_of_whole_matrices(
    packed: Path, tmp_path: Path, world_size: int, shard: int | str, by_layer: bool
) -> None:
    """3 experts of 8 rows on 2 or 3 ranks: shards end within experts, and hold parts of several."""
    found = []
    for number, cut in ((1, "all"), (world_size, shard)):
        path = tmp_path / f"{number}.safetensors"
        arguments = (path, packed, cut, by_layer)
        assert ranks.run_function(step_of_random_gradients, number, *arguments) == [0] * number
        found.append(load_file(path))
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=0, atol=2e-5, msg=name)


def test_one_rank_learns_as_two(packed: Path, on_two: Path, tmp_path: Path) -> None:
    finish(ranks.write_job(packed, tmp_path, muon_settings()), 1)
    assert_alike(tmp_path, on_two)


def test_layer_by_layer_learns_as_one_unit(packed: Path, on_two: Path, tmp_path: Path) -> None:
    finish(ranks.write_job(packed, tmp_path, muon_settings()), 2, SMALL_MODEL_PARAMETERS=0)
    assert_alike(tmp_path, on_two)


def test_one_rank_learns_as_two_in_bf16(packed: Path, tmp_path: Path) -> None:
    """Up to the rounding of bf16, which orthogonalisation passes on as it is: it is no larger than
    the noise of a batch."""
    losses = []
    for world_size in (1, 2):
        values = muon_settings(precision="bf16")
        finish(ranks.write_job(packed, tmp_path / str(world_size), values), world_size)
        run = ranks.read_run(tmp_path / str(world_size))
        losses.append([run[step]["train/loss"] for step in sorted(run)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0][-1] < losses[0][0] - 0.3


def test_it_is_another_training_than_adamws(on_two: Path, uninterrupted: Path) -> None:
    assert ranks.read_run(on_two)[12] != pytest.approx(ranks.read_run(uninterrupted)[12], rel=1e-2)
    losses = [ranks.read_run(on_two)[step]["train/loss"] for step in (1, 12)]
    assert losses[1] < losses[0] - 0.3


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_other_architectures_and_tied_weights_train_alike(
    packed: Path, tmp_path: Path, architecture: str
) -> None:
    values = muon_settings(model=ARCHITECTURES[architecture], steps=4)
    for world_size in (1, 2):
        job = ranks.write_job(packed, tmp_path / str(world_size), values)
        finish(job, world_size, SMALL_MODEL_PARAMETERS=0)
    assert_alike(tmp_path / "2", tmp_path / "1")


def test_kills_leave_no_trace_on_two_ranks(packed: Path, on_two: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, muon_settings())
    for fault in (Fault(step=6, rank=1), Fault(step=8, at="before tensors")):
        codes = ranks.run_ranks(job, 2, fault)
        assert codes[fault.rank] == -signal.SIGKILL and codes[1 - fault.rank] != 0, codes
    finish(job, 2)
    assert ranks.read_run(tmp_path) == ranks.read_run(on_two)
    assert ranks.read_samples(tmp_path) == ranks.read_samples(on_two)
    assert weights(tmp_path) == weights(on_two)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_kill_leaves_no_trace_on_one_rank(packed: Path, tmp_path: Path, precision: str) -> None:
    """In bf16 a rank alone has shards, too, all of them."""
    values = muon_settings(steps=8, precision=precision)
    whole, broken = (
        ranks.write_job(packed, tmp_path / name, values) for name in ("whole", "broken")
    )
    finish(whole, 1)
    assert ranks.run_ranks(broken, 1, Fault(step=6)) == [-signal.SIGKILL]
    finish(broken, 1)
    assert ranks.read_run(broken.parent) == ranks.read_run(whole.parent)
    assert weights(broken.parent) == weights(whole.parent)


def test_a_run_moves_to_other_ranks_and_back(packed: Path, on_two: Path, tmp_path: Path) -> None:
    job = ranks.write_job(packed, tmp_path, muon_settings())
    assert ranks.run_ranks(job, 2, Fault(step=2, number=signal.SIGTERM)) == [STOPPED] * 2
    assert ranks.run_ranks(job, 1, Fault(step=6, number=signal.SIGTERM)) == [STOPPED]
    finish(job, 2)
    assert_alike(tmp_path, on_two)


def test_a_checkpoint_holds_one_momentum_of_a_matrix(on_two: Path) -> None:
    newest = complete_checkpoints(on_two / CHECKPOINTS_FOLDER)[-1]
    state = [name for name, _ in read_tensors(newest, "optimizer.model.model.layers.1.")]
    assert "mlp.experts.gate_in.momentum" in state
    assert "mlp.phi.exp_avg" in state and "mlp.phi.exp_avg_sq" in state
    assert not [name for name in state if "experts" in name and not name.endswith("momentum")]


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimizer_is_refused_before_a_step(
    packed: Path, tmp_path: Path, before: str, after: str
) -> None:
    values = ranks.settings(steps=8, optimizer=before)
    job = ranks.write_job(packed, tmp_path, values)
    assert ranks.run_ranks(job, 1, Fault(step=5, number=signal.SIGTERM)) == [STOPPED]
    done = ranks.read_run(tmp_path)
    ranks.write_job(packed, tmp_path, {**values, "optimizer": after})
    (tmp_path / "rank-0.log").write_text("")
    assert ranks.run_ranks(job, 1) == [2]
    log = (tmp_path / "rank-0.log").read_text()
    assert "another optimizer" in log and "pretrain.optimizer" in log and "Traceback" not in log
    assert ranks.read_run(tmp_path) == done
    ranks.write_job(packed, tmp_path, values)
    finish(job, 1)


def test_batches_that_are_skipped_leave_momentum_alone(packed: Path, tmp_path: Path) -> None:
    """A batch without finite losses in the middle: as if the data did not hold it."""
    health = {"non_finite": "skip"}
    job = ranks.write_job(packed, tmp_path, muon_settings(health=health, steps=8))
    assert ranks.run_ranks(job, 2, None, {3: float("nan")}) == [0, 0]
    losses = [m["train/loss"] for _, m in sorted(ranks.read_run(tmp_path).items())]
    assert all(loss == loss for loss in losses) and losses[-1] < losses[0]
    assert json.loads((tmp_path / HEALTH_FILE).read_text().splitlines()[0])["action"] == "skip"
