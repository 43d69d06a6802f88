"""The stage `evaluate` with answers in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import validate
from common.errors import ConfigError
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import Context, StageResult
from tasks.evaluate import EvaluateConfig, evaluate
from tests.tasks.running import data_sets
from tests.tiny_benchmarks import write_benchmarks
from tests.tiny_bigram import write_bigram_model

SAYS_B = {"\n": "B", "B": ".", ".": "<|im_end|>"}
"""Ends every prompt's line break with the answer "B."."""
MODES: list[Any] = ["likelihood", "answer_first", "chain_of_thought"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and benchmarks."""
    folder = tmp_path_factory.mktemp("words")
    write_bigram_model(folder / "sft" / MODEL_FOLDER, SAYS_B)
    write_benchmarks(folder / "benchmarks")
    return folder


def inputs(folder: Path, stage: str = "sft") -> dict[str, Any]:
    benchmarks = StageResult(stage="acquire", key="e1", folder=folder / "benchmarks", manifest={})
    model = StageResult(stage=stage, key="m1", folder=folder / "sft", manifest={})
    return {"model": model, "benchmarks": data_sets(benchmarks)}


def results_of(done: StageResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done.folder / "results.json").read_text())
    return found


def test_answers_in_words_are_scored_beside_likelihoods(context: Context, folder: Path) -> None:
    config = EvaluateConfig(num_fewshot=1, modes=MODES, answer_tokens=8, reasoning_tokens=5)
    done = evaluate(config, context=context, label="words", **inputs(folder))
    results = results_of(done)
    right = {"ceval": 2 + 1, "mmlu": 2}  # answers go round A, B, C, D
    for name, result in results.items():
        assert set(result["modes"]) == {"answer_first", "chain_of_thought"}
        for mode, figures in result["modes"].items():
            assert figures["num_right"] == right[name]
            assert figures["num_questions"] == result["num_questions"]
            assert figures["unparsed_share"] == figures["cut_share"] == 0
            assert figures["mean_tokens"] == 2
            assert figures["num_fewshot"] == (1 if mode == "answer_first" else 0)
            low, high = figures["interval_95"]
            assert low <= figures["accuracy_micro"] <= high
            file = done.folder / "samples" / f"{name}-{mode}.jsonl"
            samples = [json.loads(line) for line in file.read_text().splitlines()]
            assert {(s["answer"], s["choice"]) for s in samples} == {("B.", "B")}
            assert samples[0]["options"] == ["0", "007", "甲，乙", "1.50"]
    first = (done.folder / "samples" / "ceval-chain_of_thought.jsonl").read_text().splitlines()[0]
    prompt = json.loads(first)["prompt"]
    assert "\nA. 0\nB. 007\nC. 甲，乙\nD. 1.50\n请先给出解释，再给出答案。<|im_end|>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    assert done.manifest["counts"]["accuracy/ceval/answer_first"] == pytest.approx(3 / 11)
    assert done.manifest["counts"]["unparsed/mmlu/chain_of_thought"] == 0


@pytest.mark.slow
def test_what_cannot_be_parsed_is_wrong_and_shown(context: Context, tmp_path: Path) -> None:
    write_bigram_model(tmp_path / "sft" / MODEL_FOLDER, {"\n": "?", "?": "!", "!": "?"})
    write_benchmarks(tmp_path / "benchmarks")
    config = EvaluateConfig(num_fewshot=0, modes=MODES[:2], answer_tokens=6)
    done = evaluate(config, context=context, label="words", **inputs(tmp_path))
    figures = results_of(done)["ceval"]["modes"]["answer_first"]
    assert figures["num_right"] == 0
    assert figures["num_questions"] == figures["num_unparsed"] == 11
    assert figures["unparsed_reasons"] == {"nothing stated": 11}
    assert figures["unparsed_share"] == figures["cut_share"] == 1
    assert figures["mean_tokens"] == 6


@pytest.mark.slow
def test_a_base_model_is_not_asked_in_words(context: Context, folder: Path) -> None:
    config = EvaluateConfig(num_fewshot=0, modes=MODES)
    done = evaluate(config, context=context, label="base", **inputs(folder, "pretrain"))
    assert all(result["modes"] == {} for result in results_of(done).values())


@pytest.mark.slow
def test_answers_are_generated_once(
    context: Context, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch size and what is asked beside them are no reason to answer again."""
    config = EvaluateConfig(num_fewshot=0, modes=MODES, answer_tokens=7)
    first = evaluate(config, context=context, label="once", **inputs(folder))
    monkeypatch.setattr("tasks.evaluate.torchrun", lambda *a, **k: pytest.fail("ran again"))
    for changes in ({"modes": MODES[:2]}, {"batch_size": 3}):
        values: dict[str, Any] = {"num_fewshot": 0, "modes": MODES, "answer_tokens": 7, **changes}
        again = evaluate(EvaluateConfig(**values), context=context, label="again", **inputs(folder))
        for name, result in results_of(again).items():
            known = results_of(first)[name]["modes"]
            assert result["modes"] == {mode: known[mode] for mode in result["modes"]}


def test_check_refuses_modes_that_do_not_fit() -> None:
    validate(EvaluateConfig(modes=MODES), "evaluate")
    for changes, words in (
        ({"modes": ["answer_first"]}, "without likelihood"),
        ({"modes": ["likelihood", "likelihood"]}, "twice"),
        ({"modes": ["likelihood", "cot"]}, "modes"),
        ({"modes": ["likelihood", "generate_until"]}, "modes"),
        ({"modes": []}, "modes"),
        ({"modes": MODES, "chat": False}, "only chat models"),
        ({"answer_tokens": 0}, "answer_tokens"),
        ({"reasoning_tokens": -5}, "reasoning_tokens"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate(EvaluateConfig(**changes), "evaluate")
