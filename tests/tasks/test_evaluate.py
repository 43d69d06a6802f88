"""The stage `evaluate`: every question counts, however many processes answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import validate
from common.errors import ConfigError, DataError
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import Context, StageResult
from tasks.evaluate import EvaluateConfig, evaluate
from tests.tasks.running import data_sets, run_stage
from tests.tiny_benchmarks import write_benchmarks, write_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "benchmarks")


@pytest.fixture
def inputs(tmp_path: Path, benchmarks: Path, model_folder: Path) -> dict[str, Any]:
    """Inputs of the stage: a model that SFT made, and the benchmarks."""
    trained = tmp_path / "sft"
    trained.mkdir()
    (trained / MODEL_FOLDER).symlink_to(model_folder)
    return {
        "model": StageResult(stage="sft", key="m1", folder=trained, manifest={}),
        "benchmarks": data_sets(
            StageResult(stage="acquire", key="e1", folder=benchmarks, manifest={})
        ),
    }


def test_check_refuses_bad_values() -> None:
    validate(EvaluateConfig(), "evaluate")
    for changes in ({"num_fewshot": -1}, {"limit": 0}, {"batch_size": 0}, {"num_processes": 0}):
        with pytest.raises(ConfigError):
            validate(EvaluateConfig(**changes), "evaluate")


def test_the_stage_counts_every_question(context: Context, inputs: dict[str, Any]) -> None:
    config = EvaluateConfig(num_fewshot=1, batch_size=8)
    done = evaluate(config, context=context, label="tiny", **inputs)
    results = json.loads((done.folder / "results.json").read_text())
    assert {name: r["num_questions"] for name, r in results.items()} == {"ceval": 11, "mmlu": 6}
    assert results["ceval"]["subjects"]["valley_lore"]["num_questions"] == 4
    assert results["ceval"]["num_subjects_known"] == 52
    assert results["ceval"]["chat"] is True  # the model comes from SFT
    for name, result in results.items():
        path = done.folder / "samples" / f"{name}.jsonl"
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        right = sum(sample["gold"] == sample["choice"] for sample in samples)
        assert result["accuracy_micro"] == right / len(samples)
        assert all(len(sample["log_likelihoods"]) == 4 for sample in samples)
        low, high = result["interval_95"]
        assert low <= result["accuracy_micro"] <= high
    first = json.loads((done.folder / "samples" / "ceval.jsonl").read_text().splitlines()[1])
    assert first["options"] == ["1", "007", "甲，乙", "1.50"]
    assert first["gold"] == "B"
    assert not (done.folder / ".scratch").exists()


def test_bad_rows_are_refused_or_left_out_and_counted(
    context: Context, inputs: dict[str, Any], benchmarks: Path
) -> None:
    with (benchmarks / "ceval" / "val" / "law_val.csv").open("a") as file:
        file.write('"7","q","1","2","","4","A"\n')
    config = EvaluateConfig(num_fewshot=0, on_bad_row="skip")
    with pytest.raises(DataError, match=r"law_val\.csv, line 9: the option C is empty"):
        run_stage(evaluate, benchmarks.parent / "run", EvaluateConfig(), **inputs)
    done = evaluate(config, context=context, label="tiny", **inputs)
    result = json.loads((done.folder / "results.json").read_text())["ceval"]
    assert (result["num_questions"], result["num_bad_rows"]) == (11, 1)
    assert result["bad_rows"][0].endswith("law_val.csv, line 9: the option C is empty")
    assert done.manifest["counts"]["bad_rows"] == 1
    assert done.manifest["counts"]["questions"] == 17


@pytest.mark.slow
def test_two_processes_answer_like_one(context: Context, inputs: dict[str, Any]) -> None:
    samples = []
    for num_processes in (1, 2):
        config = EvaluateConfig(num_fewshot=0, num_processes=num_processes)
        done = evaluate(config, context=context, label=f"{num_processes}", **inputs)
        samples.append((done.folder / "samples" / "ceval.jsonl").read_text().splitlines())
    for one, other in zip(*samples, strict=True):
        left, right = json.loads(one), json.loads(other)
        scores = [side.pop("log_likelihoods") for side in (left, right)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-4)
        assert left == right


def test_a_model_without_chat_template_is_refused_for_chat(
    inputs: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain" / MODEL_FOLDER
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(plain)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(plain)
    inputs["model"] = StageResult(stage="pretrain", key="m2", folder=plain.parent, manifest={})
    config = EvaluateConfig(num_fewshot=0, chat=True)
    with pytest.raises(ConfigError, match="has no chat template"):
        run_stage(evaluate, tmp_path / "run", config, **inputs)
