"""Samples without a target are left out and counted; what is reported was trained on."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from common.files import read_json_lines
from model.train.run.folder import LEFT_OUT_FILE, METRICS_FILE, PREPARED_FILE
from tasks.core.finetune import final_figures
from tests.model.train.finetune.recording import curve, make_job, seen, train
from tests.tiny_chat import conversations, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")


def prepared(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / PREPARED_FILE).read_text())
    return found


@pytest.mark.parametrize("packing", [False, True])
def test_conversations_without_a_target_are_left_out_and_counted(
    base: Path, tmp_path: Path, packing: bool
) -> None:
    rows = conversations(8)
    rows[1]["messages"][0]["content"] = "长" * 200
    rows[4]["messages"][-1]["content"] = " "
    rows[7]["messages"] = [{"role": "user", "content": "x" * 500}, *rows[7]["messages"][1:]]
    rows[7]["set"] = "other"
    make_job("sft", base, tmp_path / "run", rows, packing=packing, max_length=300, epochs=1)
    assert train("sft", tmp_path / "run") == 0
    counts = prepared(tmp_path / "run")
    assert (counts["drawn"], counts["trained_on"], counts["left_out"]) == (8, 5, 3)
    assert counts["sets"]["sums"]["left_out"] == {"prompt fills max_length": 1, "empty answer": 1}
    assert counts["sets"]["other"]["left_out"] == {"prompt fills max_length": 1}
    trained = sum(seen(tmp_path / "run").values(), Counter())
    assert len(trained) == 5
    assert set(trained.values()) == {1}
    assert [row["line"] for row in read_json_lines(tmp_path / "run" / LEFT_OUT_FILE)] == [2, 5, 8]
    assert curve(tmp_path / "run")[-1][1]["data/samples"] == 5
    assert all(line["train/loss"] > 0 for _, line in curve(tmp_path / "run"))


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_nothing_left_is_an_error_before_the_model_is_loaded(
    tmp_path: Path, base: Path, method: str
) -> None:
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"")
    output = tmp_path / "run"
    make_job(method, model, output, max_length=16)
    reason = {"sft": "prompt fills", "dpo": "the question alone"}[method]
    with pytest.raises(DataError, match=rf"max_length = 16 .*sums: 11 of 11 \({reason}"):
        train(method, output)


@pytest.mark.parametrize(("method", "interval", "steps"), [("sft", 10, 7), ("dpo", 3, 5)])
def test_final_figures_are_those_of_the_last_step(
    base: Path, tmp_path: Path, method: str, interval: int, steps: int
) -> None:
    truth, sparse = tmp_path / "truth", tmp_path / "sparse"
    make_job(method, base, truth, max_steps=steps)
    make_job(method, base, sparse, max_steps=steps, log_interval=interval)
    assert train(method, truth) == train(method, sparse) == 0
    lines = dict(curve(truth))
    assert dict(curve(sparse)) == {
        step: lines[step] for step in lines if step in (1, steps) or step % interval == 0
    }
    figures = final_figures(sparse / METRICS_FILE, steps)
    assert figures["steps"] == steps
    assert figures["train_loss"] == lines[steps]["train/loss"]
    assert figures["learning_rate"] == lines[steps]["train/learning_rate"]
