"""The loss: fused and plain agree, and documents in one sample do not see each other."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from model import SteelForCausalLM
from model.train.objective import Objective, document_positions

END = 1


def test_positions_restart_after_each_end() -> None:
    ids = torch.tensor([[5, 6, END, 7, END, END, 8, 9], [END, 5, 6, 7, 8, 9, 5, END]])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]
    assert document_positions(ids, END).tolist() == expected


@pytest.fixture
def qwen() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=61,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=32,
        )
    )


@pytest.mark.parametrize("kind", ["steel", "qwen"])
def test_equals_transformers_loss(
    kind: str,
    make_model: Callable[..., SteelForCausalLM],
    qwen: Qwen2ForCausalLM,
    tokens: torch.Tensor,
) -> None:
    language_model = make_model() if kind == "steel" else qwen
    objective = Objective(language_model, end_of_document=None)
    loss, by_sample = objective(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    gradient = language_model.get_input_embeddings().weight.grad.clone()
    language_model.zero_grad()

    expected = language_model(input_ids=tokens, labels=tokens).loss
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, language_model.get_input_embeddings().weight.grad)
    assert not by_sample.requires_grad
    torch.testing.assert_close(by_sample.mean(), expected)
    for row, found in zip(tokens, by_sample, strict=True):
        torch.testing.assert_close(
            found, language_model(input_ids=row[None], labels=row[None]).loss
        )


@pytest.mark.parametrize("kind", ["steel", "qwen"])
def test_documents_are_independent(
    kind: str,
    make_model: Callable[..., SteelForCausalLM],
    qwen: Qwen2ForCausalLM,
    tokens: torch.Tensor,
) -> None:
    language_model = make_model() if kind == "steel" else qwen
    first, second = tokens[0, :5], tokens[1, :7]
    row = torch.cat([first, torch.tensor([END]), second])[None]
    objective = Objective(language_model, end_of_document=END)
    loss, _ = objective(row[:, :-1], row[:, 1:])

    alone = 0.0
    for ids, targets in ((row[0, :6], row[0, 1:7]), (second[:-1], second[1:])):
        logits = language_model(input_ids=ids[None]).logits[0]
        alone += functional.cross_entropy(logits, targets, reduction="sum").item()
    assert loss.item() == pytest.approx(alone / 12, rel=1e-5)
    joined, _ = Objective(language_model, end_of_document=None)(row[:, :-1], row[:, 1:])
    assert joined.item() != pytest.approx(loss.item(), rel=1e-5)


def test_ignored_targets_do_not_count(
    make_model: Callable[..., SteelForCausalLM], tokens: torch.Tensor
) -> None:
    objective = Objective(make_model(), end_of_document=None)
    labels = tokens[:, 1:].clone()
    labels[0, 3:] = -100
    labels[2] = -100
    _, full = objective(tokens[:, :-1], tokens[:, 1:])
    loss, by_sample = objective(tokens[:, :-1], labels)
    _, short = objective(tokens[:1, :3], tokens[:1, 1:4])
    torch.testing.assert_close(by_sample[:2], torch.stack([short[0], full[1]]))
    assert by_sample[2] == 0
    torch.testing.assert_close(loss, (by_sample[0] * 3 + by_sample[1] * 11) / 14)
