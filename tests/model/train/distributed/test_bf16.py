"""In bf16 two ranks resume to the bit, and learn what one learns but for rounding."""

import signal
from pathlib import Path
from typing import Any

import pytest

from model.train.run.folder import MODEL_FOLDER
from tests.model.train import ranks
from tests.model.train.ranks import Fault

pytestmark = [pytest.mark.usefixtures("fork_server"), pytest.mark.slow]

SHARDINGS: dict[str, dict[str, Any]] = {
    "one unit": {},
    "layer by layer": {"constants": {"SMALL_MODEL_PARAMETERS": 0}},
    "weights kept": {
        "constants": {"SMALL_MODEL_PARAMETERS": 0},
        "parallel": {"reshard_after_forward": False},
    },
    "two copies": {"parallel": {"shard": 1}},
    "recomputed": {"constants": {"SMALL_MODEL_PARAMETERS": 0}, "activation_checkpointing": "full"},
}


def job_in(folder: Path, packed: Path, routing: str, sharding: str, **changes: Any) -> Path:
    settings = {name: v for name, v in SHARDINGS[sharding].items() if name != "constants"}
    model = {**ranks.TINY, "routing": routing}
    values = ranks.settings(model=model, precision="bf16", **settings, **changes)
    return ranks.write_job(packed, folder, values)


def run(job: Path, world_size: int, sharding: str, fault: Fault | None = None) -> list[int]:
    return ranks.run_ranks(job, world_size, fault, **SHARDINGS[sharding].get("constants", {}))


def log(job: Path) -> str:
    return (job.parent / "rank-0.log").read_text()


@pytest.mark.parametrize(
    ("routing", "sharding"),
    [("token", name) for name in SHARDINGS]
    + [(name, "layer by layer") for name in ("uniform", "dense", "sequence", "reference_norm")],
)
def test_two_ranks_that_were_killed_and_stopped_equal_those_that_were_not(
    packed: Path, tmp_path: Path, routing: str, sharding: str
) -> None:
    whole, broken = (
        job_in(tmp_path / name, packed, routing, sharding) for name in ("whole", "broken")
    )
    assert run(whole, 2, sharding) == [0, 0], log(whole)
    for fault in (Fault(step=6, rank=1), Fault(step=8, at="before tensors")):
        codes = run(broken, 2, sharding, fault)
        assert codes[fault.rank] == -signal.SIGKILL and 0 not in codes, (fault, codes)
    stop = Fault(step=9, number=signal.SIGTERM, rank=1)
    assert run(broken, 2, sharding, stop) == [143, 143], log(broken)
    assert run(broken, 2, sharding) == [0, 0], log(broken)
    assert ranks.read_run(broken.parent) == ranks.read_run(whole.parent)
    assert ranks.read_samples(broken.parent) == ranks.read_samples(whole.parent)
    models = [job.parent / MODEL_FOLDER / "model.safetensors" for job in (whole, broken)]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.parametrize("routing", ["token", "uniform", "dense", "sequence", "reference_norm"])
def test_two_ranks_learn_as_one(packed: Path, tmp_path: Path, routing: str) -> None:
    """The micro-batches are the same ones: the first step differs by the order of sums in fp32,
    later ones by weights that round to another bf16 number."""
    found = {}
    for world_size in (1, 2):
        job = job_in(tmp_path / str(world_size), packed, routing, "layer by layer")
        codes = run(job, world_size, "layer by layer")
        assert codes == [0] * world_size, log(job)
        found[world_size] = ranks.read_run(job.parent)
    assert found[1].keys() == found[2].keys()
    for step, metrics in found[1].items():
        for name, later in (("train/loss", 1e-2), ("train/grad_norm", 1e-1)):
            expected = pytest.approx(metrics[name], rel=1e-5 if step == 1 else later)
            assert found[2][step][name] == expected, (step, name)
    losses = [found[1][step]["train/loss"] for step in sorted(found[1])]
    assert losses[-1] < losses[0] - 0.1, "it learns"
