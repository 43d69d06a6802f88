"""Cloze answers: the likelihood of every byte of an option, as a plain loop computes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import DataError
from common.files import json_line
from common.recipes import load_recipe
from corpus.benchmarks.cloze import cloze_jobs, cloze_rows
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from model.entry import evaluate as entry
from model.evaluate.answers import read_answers
from model.evaluate.choice_lm import ChoiceLM
from model.evaluate.job import EvaluateJob
from model.train.distributed.context import distributed_context
from model.train.run.folder import METRICS_FILE
from tests.tiny_benchmarks import write_benchmarks, write_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def plain_log_p(folder: Path, prompt: str, text: str) -> float:
    """log P(text | prompt), one token after the other."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)
    total = 0.0
    for token in tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True):
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        total += logits.double().log_softmax(-1)[token].item()
        ids.append(token)
    return total


@pytest.mark.parametrize("batch_size", [1, 32])
def test_answers_are_those_of_a_plain_loop(
    model_folder: Path, tmp_path: Path, batch_size: int
) -> None:
    folder = write_benchmarks(tmp_path / "benchmarks")
    jobs, rows = [], {}
    for name in ("ceval", "mmlu"):
        benchmark = read_benchmark(name, load_recipe(BenchmarkRecipe, "evals", name), folder / name)
        settings = {"model": "m", "dtype": "float32", "limit": 2}
        jobs += cloze_jobs(
            benchmark, **settings, folder=tmp_path / "cloze", cache=tmp_path / "cache"
        )
        rows |= {s: cloze_rows(benchmark, s, limit=2) for s in benchmark.subjects}
    job = EvaluateJob(
        model=str(model_folder),
        subjects=jobs,
        metrics=str(tmp_path / METRICS_FILE),
        chat=False,
        limit=2,
        batch_size=batch_size,
        dtype="float32",
    )
    entry.evaluate(job)
    for subject in jobs:
        answers: list[dict[str, Any]] = read_answers(Path(subject.answers)) or []
        assert len(answers) == 2
        for answer, row in zip(answers, rows[subject.subject], strict=True):
            expected = [plain_log_p(model_folder, row["prompt"], o) for o in row["options"]]
            assert answer["log_likelihoods"] == pytest.approx(expected, abs=2e-4)
            assert answer["bytes"] == [len(option.encode()) for option in row["options"]]
            per_character = [p / len(o) for p, o in zip(expected, row["options"], strict=True)]
            first = per_character.index(max(per_character))
            assert answer["right"] == (first == row["target"])


def test_no_byte_of_an_option_is_lost_where_it_would_join_the_prompt(model_folder: Path) -> None:
    """A space and a letter are one token here: a prompt that ends in a space would take both."""
    with distributed_context() as ranks:
        network, tokenizer = entry.load_model(model_folder, "float32", ranks.device)
        lm = ChoiceLM(network, tokenizer, batch_size=4)
        (score, tokens), (control, spelled) = lm.score_apart(
            [("答案： ", "A"), ("q", "<|im_end|>")]
        )
    assert tokens == 1
    assert score == pytest.approx(plain_log_p(model_folder, "答案： ", "A"), abs=1e-4)
    assert spelled == len("<|im_end|>")  # characters, no control token
    assert control == pytest.approx(plain_log_p(model_folder, "q", "<|im_end|>"), abs=1e-3)


def test_a_text_that_no_context_holds_is_refused(model_folder: Path) -> None:
    with distributed_context() as ranks:
        network, tokenizer = entry.load_model(model_folder, "float32", ranks.device)
        lm = ChoiceLM(network, tokenizer, batch_size=4, max_length=16)
        with pytest.raises(DataError, match="context of 16"):
            lm.score_apart([("q", "x" * 17)])
        lm.score_apart([("q" * 40, "x" * 16)])
    assert lm.truncated == {"q" * 40}


def test_options_stand_in_a_prompt_of_their_language(tmp_path: Path) -> None:
    folder = write_benchmarks(tmp_path / "benchmarks")
    for name, prompt, first in (
        ("ceval", '问题：law 第1题, "引号"\n答案：', "1"),
        ("mmlu", 'Question: anatomy 第1题, "引号"\nAnswer:', " 1"),
    ):
        benchmark = read_benchmark(name, load_recipe(BenchmarkRecipe, "evals", name), folder / name)
        row = cloze_rows(benchmark, next(iter(benchmark.subjects)), limit=None)[1]
        assert row["prompt"] == prompt
        assert row["options"][0] == first and len(row["options"]) == 4
        assert row["target"] == 1
        assert b"007" in json_line(row)
