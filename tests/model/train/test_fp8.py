"""A training in 8 bits: on real ranks it resumes to the bit; where it cannot run it is refused.

The ranks compute on a CPU, which has the products but not the speed: the refusal is taken away.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.config import validate
from common.errors import ConfigError
from model.load import load_causal_lm
from model.train import build_model, model_settings
from model.train.config import PretrainSettings
from model.train.distributed import gpus
from model.train.finetune.config import DpoSettings, SftSettings
from model.train.model_settings import check_model
from model.train.run.folder import MODEL_FOLDER, SESSIONS_FILE
from model.train.throughput.measure import ThroughputJob, measure
from tests.model.train import ranks
from tests.model.train.ranks import Fault

MODEL = {**ranks.TINY, "expert_intermediate_size": 16}


def without_refusal(job: Path, fault: Fault | None) -> None:
    """Train as a rank does, on a device that would be refused."""
    for module in (build_model, model_settings):
        module.check_fp8 = lambda _: None  # type: ignore[attr-defined]
    ranks._train(job, fault, {}, {"SMALL_MODEL_PARAMETERS": 0})


def job_in(folder: Path, packed: Path, **changes: Any) -> Path:
    values = ranks.settings(**{"model": MODEL, "precision": "fp8", **changes})
    return ranks.write_job(packed, folder, values)


def run(job: Path, world_size: int = 2, fault: Fault | None = None) -> list[int]:
    return ranks.run_function(without_refusal, world_size, job, fault)


def log(job: Path) -> str:
    return (job.parent / "rank-0.log").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("changes", [{}, {"activation_checkpointing": "selective"}])
def test_two_ranks_that_were_killed_equal_those_that_were_not(
    packed: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """FSDP2 gathers bf16 weights, whose scales each rank finds for itself: the same ones."""
    whole, broken = (job_in(tmp_path / name, packed, **changes) for name in ("whole", "broken"))
    assert run(whole) == [0, 0], log(whole)
    fault = Fault(step=7, rank=1)
    assert run(broken, 2, fault)[1] == -signal.SIGKILL
    assert run(broken) == [0, 0], log(broken)
    assert ranks.read_run(broken.parent) == ranks.read_run(whole.parent)
    files = [job.parent / MODEL_FOLDER / "model.safetensors" for job in (whole, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "fp8: products with 12 weights" in log(whole)
    sessions = (whole.parent / SESSIONS_FILE).read_text().splitlines()
    assert json.loads(sessions[0])["resolved"]["precision"] == "fp8"

    # It learns, and what it publishes is a bf16 model like any other.
    steps = ranks.read_run(whole.parent)
    assert steps[max(steps)]["train/loss"] < steps[1]["train/loss"] - 0.1
    assert {tensor.dtype for tensor in load_file(files[0]).values()} == {torch.bfloat16}
    loaded = load_causal_lm(files[0].parent, "auto", torch.device("cpu"))
    assert type(loaded.model.layers[0].self_attn.q_proj) is torch.nn.Linear


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
def test_it_learns_what_bf16_learns(packed: Path, tmp_path: Path) -> None:
    """Twelve steps: losses, those of validation too, stay within five percent."""
    found = {}
    for precision in ("bf16", "fp8"):
        job = job_in(tmp_path / precision, packed, precision=precision)
        assert run(job, 1) == [0], log(job)
        found[precision] = ranks.read_run(job.parent)
    for name in ("train/loss", "validation/loss"):
        pairs = [
            (found["bf16"][step][name], found["fp8"][step][name])
            for step in found["bf16"]
            if name in found["bf16"][step]
        ]
        assert pairs and all(abs(a - b) < 0.05 * a for a, b in pairs), (name, pairs)
    assert found["bf16"] != found["fp8"]


# ── where it cannot run ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("capability", "here"), [(None, "there is none here"), ((8, 9), "here is 8.9")]
)
def test_it_is_refused_before_anything(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, here: str
) -> None:
    monkeypatch.setattr(model_settings, "oldest_capability", lambda: capability)
    message = f"precision: fp8 needs .* 9.0 .*{here}; set pretrain.precision to bf16"
    for model in (MODEL, {"model_type": "qwen2"}):
        settings = PretrainSettings(model=model, precision="fp8")
        validate(settings)
        with pytest.raises(ConfigError, match=message):
            check_model(settings)
    for newer in ((9, 0), (10, 3), (12, 0)):
        gpus.check_fp8(newer)


def test_a_rank_refuses_it_too(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that checked may have had another GPU than the one that trains."""
    monkeypatch.setattr(model_settings, "check_fp8", lambda _: None)
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        make_run(precision="fp8", model=MODEL)


def test_a_measurement_of_it_says_why_there_is_none(tmp_path: Path) -> None:
    from model.train.distributed.context import distributed_context

    settings = PretrainSettings(model={**MODEL, "vocab_size": 64}, precision="fp8")
    job = ThroughputJob(settings=settings, output=str(tmp_path))
    with distributed_context() as here, pytest.raises(ConfigError, match="precision: fp8 needs"):
        measure(job, here)


@pytest.mark.parametrize("settings", [SftSettings, DpoSettings])
def test_fine_tuning_has_none(settings: Any) -> None:
    with pytest.raises(ConfigError, match=r"precision = 'fp8'; .*auto, fp32 or bf16"):
        validate(settings(precision="fp8"))


def test_it_is_another_training() -> None:
    """The precision is part of a key, and nothing says that it is not."""
    (precision,) = (f for f in dataclasses.fields(PretrainSettings) if f.name == "precision")
    assert not precision.metadata


DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  static const int capabilities[2][2] = {{10, 0}, {8, 9}};
  if (attribute != 75 && attribute != 76) return 1;
  *value = capabilities[device][attribute - 75];
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_driver_is_asked_for_the_oldest_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver of two GPUs, in C."""
    source, library = tmp_path / "driver.c", tmp_path / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setattr(gpus, "num_gpus", lambda: 2)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert gpus.oldest_capability() == (8, 9)
    monkeypatch.setenv("LD_LIBRARY_PATH", os.devnull)
    monkeypatch.setattr(gpus, "CAPABILITY", "raise OSError")
    assert gpus.oldest_capability() is None
    monkeypatch.setattr(gpus, "num_gpus", lambda: 0)
    monkeypatch.setattr(gpus.subprocess, "run", lambda *_, **__: sys.exit("nobody is asked"))
    assert gpus.oldest_capability() is None
