"""DPO: policy and reference start alike, only the policy moves, and it is what is published."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.errors import DataError
from model.entry import dpo
from model.train.checkpoint.folders import complete_checkpoints
from model.train.finetune.config import DpoJob
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER, PREPARED_FILE
from model.train.run.metrics import read_metrics
from tests.model.train.finetune.preferences import jobs
from tests.model.train.finetune.preferences.jobs import make_job
from tests.tiny_chat import byte_tokenizer, pairs, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("policy"))


def run(job: DpoJob) -> list[dict[str, float]]:
    """Run a job as the stage does; the measurements of each step."""
    path = Path(job.output) / "dpo.json"
    path.write_text(json.dumps(asdict(job)))
    assert dpo.main([str(path)]) == 0
    lines = [line["metrics"] for line in read_metrics(Path(job.output) / METRICS_FILE)]
    return [metrics for metrics in lines if "train/loss" in metrics]


def test_the_first_loss_is_ln_2_and_only_the_policy_moves(policy: Path, tmp_path: Path) -> None:
    before = load_file(policy / "model.safetensors")
    job = make_job(policy, tmp_path, epochs=4)
    metrics = run(job)
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics[0]["train/reward_margin"] == pytest.approx(0, abs=1e-6)
    assert metrics[0]["train/kl"] == pytest.approx(0, abs=1e-9)
    assert metrics[-1]["train/loss"] < math.log(2) - 0.01
    assert metrics[-1]["train/preference_accuracy"] == 1
    assert metrics[-1]["train/reward_chosen"] > metrics[-1]["train/reward_rejected"]
    assert metrics[-1]["train/kl"] > 0
    moved = load_file(Path(job.output) / MODEL_FOLDER / "model.safetensors")
    assert not any(torch.equal(moved[name], t) for name, t in before.items() if "proj" in name)
    assert load_file(policy / "model.safetensors").keys() == before.keys()


def test_what_is_published_is_the_last_checkpoint(policy: Path, tmp_path: Path) -> None:
    job = make_job(policy, tmp_path)
    run(job)
    result = tmp_path / MODEL_FOLDER
    published = load_file(result / "model.safetensors")
    last = complete_checkpoints(Path(job.scratch))[-1]
    assert last.name.endswith("00000003")
    assert all(tensor.isfinite().all() for tensor in published.values())
    assert (result / "chat_template.jinja").read_text() == byte_tokenizer().chat_template
    again = (result / "model.safetensors").stat().st_mtime_ns
    run(job)  # finished
    assert (result / "model.safetensors").stat().st_mtime_ns == again


def labelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Half of the rows in another set."""
    return [{**row, "set": ("sums", "more")[n % 2]} for n, row in enumerate(rows)]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_held_out_pairs_are_measured_by_set(policy: Path, tmp_path: Path, keep: str) -> None:
    rows = labelled(pairs(240))
    job = make_job(
        policy,
        tmp_path,
        rows,
        validation_fraction=0.2,
        global_batch_size=32,
        micro_batch_size=16,
        eval_interval=3,
        keep=keep,
    )
    run(job)
    counts = json.loads((tmp_path / PREPARED_FILE).read_text())
    assert 20 < counts["held_out"] < 80
    assert counts["trained_on"] + counts["held_out"] == 240
    lines = list(read_metrics(tmp_path / METRICS_FILE))
    found = {n["step"]: n["metrics"] for n in lines if "validation/loss" in n["metrics"]}
    assert [*found] == [3, 6, 7]
    for metrics in found.values():
        assert metrics["validation/pairs"] == counts["held_out"]
        sets = [metrics[f"validation/preference_accuracy_{name}"] for name in ("sums", "more")]
        whole = metrics["validation/preference_accuracy"]
        assert min(sets) <= whole <= max(sets)
        assert metrics["validation/reward_margin"] > 0
        assert 0 <= metrics["validation/length_accuracy"] <= 1
        assert metrics["data/tokens"] > 0
    assert found[6]["validation/loss"] < found[3]["validation/loss"] < math.log(2)


def test_pairs_without_room_for_an_answer_are_refused(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"max_length = 8 .*4 of 4"):
        jobs.run(make_job(policy, tmp_path, pairs(4), max_length=8))
