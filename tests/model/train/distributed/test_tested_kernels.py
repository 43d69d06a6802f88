"""A training with a wrong kernel is, bit for bit, the one with the reference in its place."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from model.kernels import replace_failing
from model.train.run.folder import MODEL_FOLDER, SESSIONS_FILE
from model.train.run.sessions import resolved
from tests.faults.wrong_kernels import enter_faults, enter_for_good
from tests.model.train import ranks
from tests.model.train.finetune.recording import curve, make_job, train, weights
from tests.tiny_chat import write_model

WRONG = {"swiglu": ("faulty", "gradients")}
SOUND = {"swiglu": ("faulty", "sound")}


def train_with(wrong_ranks: list[int], machines: int, job: Path) -> None:
    """Train in a rank whose kernels are wrong if it is named, as one of so many machines."""
    rank = int(os.environ["RANK"])
    given = WRONG if rank in wrong_ranks else SOUND
    enter_for_good(given)
    os.environ["LOCAL_WORLD_SIZE"] = str(int(os.environ["WORLD_SIZE"]) // machines)
    ranks._train(job, None, {}, {})


def run(
    packed: Path, output: Path, wrong_ranks: list[int], *, machines: int = 1, **changes: Any
) -> tuple[dict[int, dict[str, float]], bytes]:
    """Losses and weights of a run of two ranks in which `faulty` computes SwiGLU."""
    model = {**ranks.TINY, "kernels": {"swiglu": "faulty"}}
    job = ranks.write_job(packed, output, ranks.settings(**{"model": model, "steps": 6, **changes}))
    codes = ranks.run_function(train_with, 2, wrong_ranks, machines, job)
    assert codes == [0, 0], (output / "rank-0.log").read_text()
    return ranks.read_run(output), (output / MODEL_FOLDER / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def right(packed: Path, fork_server: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Losses and weights of the run whose SwiGLU is the eager one."""
    model = {**ranks.TINY, "kernels": {"swiglu": "eager"}}
    return run(packed, tmp_path_factory.mktemp("right"), [], model=model)


def test_a_wrong_kernel_on_one_machine_is_replaced_on_all(
    packed: Path, right: Any, tmp_path: Path
) -> None:
    """Each of two ranks is a machine, and only the second one's kernels are wrong."""
    assert run(packed, tmp_path, [1], machines=2) == right
    log = (tmp_path / "rank-0.log").read_text()
    assert "kernels: swiglu failed its self-test and is replaced on all ranks, " in log
    assert "faulty -> eager: swiglu [33, 15]: gradient 1 differs by" in log
    assert "failed its self-test" not in (tmp_path / "rank-1.log").read_text(), "said once"
    settled = resolved(tmp_path / SESSIONS_FILE)
    assert settled["kernels"]["swiglu"] == "eager"
    assert settled["kernels_replaced"].keys() == {"swiglu"}
    # The model keeps its choice, for machines that can.
    config = json.loads((tmp_path / MODEL_FOLDER / "config.json").read_text())
    assert config["kernels"] == {"swiglu": "faulty"}


@pytest.mark.slow
def test_compiled_layers_use_the_same_choice(packed: Path, tmp_path: Path) -> None:
    model = {**ranks.TINY, "kernels": {"swiglu": "eager"}}
    expected = run(packed, tmp_path / "right", [], model=model, compile=True, steps=3)
    assert run(packed, tmp_path / "wrong", [0, 1], compile=True, steps=3) == expected


def test_untested_it_would_have_been_trained_with(packed: Path, right: Any, tmp_path: Path) -> None:
    found, trained = run(packed, tmp_path, [0, 1], kernels={"self_test": False})
    assert trained != right[1] and found[6]["train/loss"] != right[0][6]["train/loss"]
    settled = resolved(tmp_path / SESSIONS_FILE)
    assert settled["kernels"]["swiglu"] == "faulty" and "kernels_replaced" not in settled


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_fine_tuning_is_tested_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The model's folder names the kernel."""
    enter_faults(monkeypatch, WRONG)
    model = write_model(tmp_path / "model")
    found = []
    for name in ("eager", "faulty"):
        config = json.loads((model / "config.json").read_text())
        config["kernels"] = {"swiglu": name}
        (model / "config.json").write_text(json.dumps(config))
        make_job(method, model, tmp_path / name)
        assert train(method, tmp_path / name) == 0
        found.append((curve(tmp_path / name), weights(tmp_path / name)))
    replace_failing({})
    assert found[0] == found[1]
    assert "swiglu" in resolved(tmp_path / "faulty" / SESSIONS_FILE)["kernels_replaced"]
