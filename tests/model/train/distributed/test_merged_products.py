"""Merged products on two ranks: the training of separate ones, whose checkpoints it continues."""

import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from model.train.run.folder import MODEL_FOLDER
from tests.model.train import ranks
from tests.model.train.ranks import Fault

pytestmark = pytest.mark.usefixtures("fork_server")

ALL = ["qkv", "ffn_in", "ffn_out"]
LAYER_BY_LAYER = {"SMALL_MODEL_PARAMETERS": 0}
LATER = {"fp32": 1e-4, "bf16": 2e-2}
"""Relative difference of a loss after some steps: roundings, which weights carry on."""


def job(folder: Path, packed: Path, merged: list[str], **changes: Any) -> Path:
    return ranks.write_job(packed, folder, ranks.settings(merged_products=merged, **changes))


def finish(path: Path, num_ranks: int = 2) -> dict[int, dict[str, Any]]:
    codes = ranks.run_ranks(path, num_ranks, **LAYER_BY_LAYER)
    assert codes == [0] * num_ranks, (path.parent / "rank-0.log").read_text()
    return ranks.read_run(path.parent)


def assert_same_training(
    found: dict[int, dict[str, Any]], wanted: dict[int, dict[str, Any]], precision: str
) -> None:
    assert found.keys() == wanted.keys()
    for step, metrics in wanted.items():
        rel = 1e-5 if step == 1 and precision == "fp32" else LATER[precision]
        assert found[step]["train/loss"] == pytest.approx(metrics["train/loss"], rel=rel), step
        norm = pytest.approx(metrics["train/grad_norm"], rel=10 * rel)
        assert found[step]["train/grad_norm"] == norm, step


@pytest.mark.parametrize(
    ("precision", "routing"),
    [
        ("fp32", "token"),
        ("bf16", "token"),
        *(
            pytest.param(precision, routing, marks=pytest.mark.slow)
            for precision in ("fp32", "bf16")
            for routing in ("dense", "sequence", "reference_norm")
        ),
    ],
)
def test_two_ranks_learn_what_they_learn_with_separate_products(
    packed: Path, tmp_path: Path, precision: str, routing: str
) -> None:
    changes = {"model": {**ranks.TINY, "routing": routing}, "precision": precision, "steps": 6}
    wanted = finish(job(tmp_path / "separate", packed, [], **changes))
    found = finish(job(tmp_path / "merged", packed, ALL, **changes))
    assert_same_training(found, wanted, precision)
    models = [
        load_file(tmp_path / name / MODEL_FOLDER / "model.safetensors")
        for name in ("separate", "merged")
    ]
    assert {name: t.shape for name, t in models[0].items()} == {
        name: t.shape for name, t in models[1].items()
    }
    configs = [
        (tmp_path / name / MODEL_FOLDER / "config.json").read_text()
        for name in ("separate", "merged")
    ]
    assert configs[0] == configs[1], "the exported model knows nothing of it"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_goes_on_with_the_other_setting(
    packed: Path, tmp_path: Path, precision: str
) -> None:
    """Separate, merged, separate again, on two ranks, one and two."""
    wanted = finish(job(tmp_path / "whole", packed, [], precision=precision))
    run = tmp_path / "changed"
    stop = Fault(step=3, number=signal.SIGTERM, rank=0)
    separate = job(run, packed, [], precision=precision)
    assert ranks.run_ranks(separate, 2, stop, **LAYER_BY_LAYER) == [143, 143]
    merged = job(run, packed, ALL, precision=precision)
    stop = Fault(step=7, number=signal.SIGTERM)
    assert ranks.run_ranks(merged, 1, stop, **LAYER_BY_LAYER) == [143]
    found = finish(job(run, packed, [], precision=precision))
    assert_same_training(found, wanted, precision)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        pytest.param({"activation_checkpointing": "selective"}, marks=pytest.mark.slow),
        pytest.param(
            {"parallel": {"reshard_after_forward": False}, "precision": "bf16"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["bf16", "recomputed", "weights kept"],
)
def test_killed_and_resumed_it_is_the_run_that_was_not(
    packed: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = job(tmp_path / "whole", packed, ALL, **changes)
    broken = job(tmp_path / "broken", packed, ALL, **changes)
    wanted = finish(whole)
    codes = ranks.run_ranks(broken, 2, Fault(step=6, rank=1), **LAYER_BY_LAYER)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    assert finish(broken) == wanted
    weights = [run.parent / MODEL_FOLDER / "model.safetensors" for run in (whole, broken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("amount", ["none", "selective", "full"])
def test_compiled_layers_learn_the_same(packed: Path, tmp_path: Path, amount: str) -> None:
    """torch.compile inside FSDP2, checkpointing inside torch.compile."""
    changes = {"steps": 3, "activation_checkpointing": amount}
    wanted = finish(job(tmp_path / "separate", packed, [], **changes))
    found = finish(job(tmp_path / "merged", packed, ALL, compile=True, **changes))
    assert_same_training(found, wanted, "fp32")
