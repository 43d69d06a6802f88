"""Bits per byte: every token predicted once, from the window before it, as a plain loop does it."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.entry import bits_per_byte as entry
from model.evaluate.job import BitsPerByteJob
from model.train.run.folder import METRICS_FILE
from tests.tiny_benchmarks import write_model

TEXTS = [
    "天地玄黄，宇宙洪荒。" * 30,
    "a",
    "It spells <|endoftext|> out.",
    "def f(x):\n\treturn x\n",
]
WINDOW = 64


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(model_folder: Path, tmp_path: Path) -> BitsPerByteJob:
    file = tmp_path / "poems.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return BitsPerByteJob(
        model=str(model_folder),
        texts={"poems": str(file)},
        window=WINDOW,
        results=str(tmp_path / "results"),
        metrics=str(tmp_path / METRICS_FILE),
        dtype="float32",
    )


def plain_bits(folder: Path, text: str) -> float:
    """-log2 of the text's probability: windows after one another, <|endoftext|> before the first,
    the last token of the window before in front of the others."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token_id
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    bits = 0.0
    for start in range(0, len(ids), WINDOW):
        window = ids[start : start + WINDOW]
        # lm-eval gives the last window as much of the text before it as fits.
        before = ([end, *ids])[max(0, start + len(window) - WINDOW) : start + 1]
        inputs = torch.tensor([[*before, *window[:-1]]])
        with torch.inference_mode():
            logp = model(inputs).logits[0].float().log_softmax(-1)
        targets = torch.tensor(window)
        bits -= logp[-len(window) :].gather(1, targets[:, None]).sum().item() / math.log(2)
    return bits


def test_bits_are_those_of_a_plain_loop(job: BitsPerByteJob, model_folder: Path) -> None:
    entry.measure(job)
    result = json.loads((Path(job.results) / "poems.json").read_text())
    expected = [plain_bits(model_folder, text) for text in TEXTS]
    assert result["bits_of_texts"] == pytest.approx(expected, rel=1e-4)
    size = sum(len(text.encode()) for text in TEXTS)
    assert result["bytes"] == size
    assert result["bits_per_byte"] == pytest.approx(sum(expected) / size, rel=1e-4)


def test_a_kind_that_has_a_result_is_not_measured_again(job: BitsPerByteJob) -> None:
    result = Path(job.results) / "poems.json"
    result.parent.mkdir()
    result.write_text("{}")
    entry.measure(job)
    assert result.read_text() == "{}"
