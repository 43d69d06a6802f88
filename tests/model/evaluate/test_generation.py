"""Answers in batches: those that a loop over one row at a time gives."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from common.errors import DataError
from model import SteelConfig, SteelForCausalLM
from model.evaluate.generation import ROUNDING, Generator, StableChoice
from model.train.loss import plain_head
from tests.tiny_chat import byte_tokenizer

ROUTINGS = ("token", "sequence", "reference_norm", "uniform", "dense")
TOKENIZER = byte_tokenizer()

pytestmark = pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they give with matrices of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(routing: str, *, dtype: torch.dtype = torch.float32, seed: int = 1) -> Any:
    """Random weights, large enough that answers differ, end at times, and have close choices."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": 264,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.4,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
    }
    if routing == "qwen2":
        network: Any = Qwen2ForCausalLM(
            Qwen2Config(**shape, num_key_value_heads=1, intermediate_size=24)
        )
    else:
        network = SteelForCausalLM(
            SteelConfig(**shape | {"routing": routing}, num_experts=2, expert_intermediate_size=8)
        )
    return network.to(dtype).eval()


def make_prompts(count: int = 9) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(256) for _ in range(draw.randint(1, 30))] for _ in range(count)]


@torch.no_grad()
def one_by_one(network: Any, prompt: list[int], limit: int, ends: list[int]) -> list[int]:
    """Greedy decoding as its definition says: a forward pass of the whole row for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        logits = network(torch.tensor([ids]), use_cache=False).logits[0, -1]
        chosen = int(logits.argmax())
        if chosen in ends:
            break
        ids.append(chosen)
    return ids[len(prompt) :]


@pytest.mark.parametrize("routing", [*ROUTINGS, "qwen2"])
def test_answers_of_any_batch_size_are_those_of_one_row_at_a_time(routing: str) -> None:
    network, prompts, limit = make_model(routing), make_prompts(), 12
    ends = Generator(network, TOKENIZER, batch_size=1).ends
    # Ends that the random model reaches: the token that it likes most.
    ends = sorted({*ends, *one_by_one(network, prompts[0], 3, ends)[2:]})
    expected = [one_by_one(network, prompt, limit, ends) for prompt in prompts]
    assert len({tuple(answer) for answer in expected}) > 1
    for batch_size in (1, 2, 9):
        generator = Generator(network, TOKENIZER, batch_size=batch_size)
        generator.ends = ends
        answers = generator.generate(prompts, [limit] * len(prompts))
        assert [a.text for a in answers] == [TOKENIZER.decode(ids) for ids in expected]
        assert [a.num_tokens for a in answers] == [len(ids) for ids in expected]
        assert [a.complete for a in answers] == [len(ids) < limit for ids in expected]
    assert any(len(ids) < limit for ids in expected)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_batch_size_changes_nothing_in_bf16(routing: str) -> None:
    """Logits of eight bits: other rows of a batch would change choices."""
    network, prompts = make_model(routing, dtype=torch.bfloat16), make_prompts()
    found = []
    for batch_size in (1, 4, 9):
        generator = Generator(network, TOKENIZER, batch_size=batch_size)
        answers = generator.generate(prompts, [16] * len(prompts))
        found.append([(a.text, a.complete) for a in answers])
        assert generator.decided_alone
    assert found[0] == found[1] == found[2]


def test_close_choices_are_made_by_the_row_alone() -> None:
    network = make_model("token")
    prompt = make_prompts(1)[0]
    ids = torch.tensor([[7, 7, *prompt]])
    with torch.no_grad():
        scores = network(torch.tensor([prompt])).logits[:, -1].float()
    best = int(scores.argmax())
    other = int(scores.argsort()[0, -2])
    noisy = scores.clone()
    noisy[0, other] = noisy[0, best] * (1 + ROUNDING[torch.float32] / 2)  # wrong, but close
    choice = StableChoice(network, plain_head(network), [2], ids.shape[1], [258])
    assert int(choice(ids, noisy).argmax()) == best
    assert choice.decided_alone == 1
    clear = scores.clone()
    clear[0, other] = clear[0, best] + 1
    assert int(choice(ids, clear).argmax()) == other  # too far apart for rounding
    assert choice.decided_alone == 1


def test_every_row_has_its_own_limit() -> None:
    network, prompts = make_model("token"), make_prompts(4)
    generator = Generator(network, TOKENIZER, batch_size=4)
    answers = generator.generate(prompts, [0, 3, 8, -2])
    whole = generator.generate(prompts, [8] * 4)
    assert [a.num_tokens for a in answers] == [0, 3, 8, 0]
    assert not answers[0].complete
    assert (
        whole[1]
        .text.encode("utf-8", "replace")
        .startswith(answers[1].text.rstrip("�").encode("utf-8", "replace"))
    )


def test_stop_texts_end_an_answer() -> None:
    network, prompts = make_model("token"), make_prompts()
    generator = Generator(network, TOKENIZER, batch_size=4)
    whole = generator.generate(prompts, [24] * len(prompts))
    stop = next(a.text[5:7] for a in whole if len(a.text) > 8)
    cut = generator.generate(prompts, [24] * len(prompts), [stop])
    for one, other in zip(cut, whole, strict=True):
        place = other.text.find(stop)
        assert one.text == (other.text if place < 0 else other.text[:place])
        assert one.complete == (other.complete or place >= 0)
        assert place < 0 or one.num_tokens <= other.num_tokens
    assert any(stop in a.text for a in whole)


def test_sampling_and_penalties_of_the_folder_are_no_part_of_an_answer(tmp_path: Path) -> None:
    network, prompts = make_model("token"), make_prompts(3)
    plain = Generator(network, TOKENIZER, batch_size=3).generate(prompts, [10] * 3)
    network.generation_config.repetition_penalty = 5.0
    network.generation_config.temperature = 3.0
    network.generation_config.do_sample = True
    network.generation_config.max_length = 4
    assert Generator(network, TOKENIZER, batch_size=3).generate(prompts, [10] * 3) == plain


def test_a_diverged_model_and_an_empty_prompt_are_refused() -> None:
    network = make_model("token")
    generator = Generator(network, TOKENIZER, batch_size=2)
    with pytest.raises(DataError, match="no token"):
        generator.generate([[]], [4])
    with torch.no_grad():
        network.lm_head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        generator.generate([[1, 2]], [4])
