"""Log-probabilities with shared prefixes, against one plain forward pass a row."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from model import SteelConfig, SteelForCausalLM
from model.architecture import Routing
from model.evaluate.forward import Forward, continues_from_a_prefix

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def steel(routing: Routing) -> Callable[[], Any]:
    shape = SHAPE | {"expert_intermediate_size": 16, "num_experts": 2}
    return lambda: SteelForCausalLM(SteelConfig(routing=routing, **shape))


def qwen() -> Any:
    return Qwen2ForCausalLM(Qwen2Config(intermediate_size=48, **SHAPE))


def mistral() -> Any:
    return MistralForCausalLM(MistralConfig(intermediate_size=48, sliding_window=16, **SHAPE))


NETWORKS = {
    "token": (steel("token"), True),
    "dense": (steel("dense"), True),
    "sequence": (steel("sequence"), False),
    "reference_norm": (steel("reference_norm"), False),
    "qwen2": (qwen, True),
    "sliding window": (mistral, False),
}
"""Name -> what makes it, and if it goes on from a prefix."""


def rows_of(count: int) -> list[tuple[int, ...]]:
    """Rows with a common beginning of 40 tokens and ends of different lengths."""
    torch.manual_seed(1)
    prefix = torch.randint(0, 50, (40,)).tolist()
    ends = [torch.randint(0, 50, (3 + i % 5,)).tolist() for i in range(count)]
    return [(*prefix, *end) for end in ends] + [(7, 8, 9)]


@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_a_forward_pass_a_row(name: str, batch_size: int) -> None:
    make, shares = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    assert continues_from_a_prefix(network) == shares
    leaks = getattr(network.config, "leaks", False)
    forward = Forward(network, batch_size=1 if leaks else batch_size)
    rows = rows_of(6)
    tails = [1 + i % 3 for i in range(len(rows))]
    found: dict[int, torch.Tensor] = {}
    for batch, scores in forward.log_softmax(rows, tails):
        found |= dict(zip(batch, scores, strict=True))
    assert sorted(found) == list(range(len(rows)))
    for i, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        with torch.inference_mode():
            expected = network(torch.tensor([row])).logits[0, -tail:].log_softmax(-1)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=2e-5)
    total = sum(map(len, rows))
    assert forward.num_tokens < total / 3 if shares else forward.num_tokens >= total


def test_letters_that_a_bf16_projection_makes_equal_stay_apart() -> None:
    torch.manual_seed(0)
    network = Qwen2ForCausalLM(
        Qwen2Config(intermediate_size=48, **(SHAPE | {"vocab_size": 4096}))
    ).to(torch.bfloat16)
    forward = Forward(network.eval(), batch_size=1)
    (_, [scores]) = next(iter(forward.log_softmax([(1, 2, 3)], [1])))
    logits = network(torch.tensor([[1, 2, 3]])).logits[0, -1]
    assert len(set(logits.tolist())) < 2048
    assert len(set(scores[0].tolist())) > 3500
