"""The loss: fused and plain agree, other architectures too, and documents do not see each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from model import SteelForCausalLM
from model.data.dataset import IGNORED
from model.train.loss import ModelWithLoss, document_arguments, plain_head

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
PLAIN = ["qwen2", "llama", "qwen3", "gpt2"]
"""Their projection alone makes the logits."""
CHANGED = ["gemma2", "granite", "cohere", "phi"]
"""They cap or scale logits, or add a bias."""
MakeAny = Callable[..., PreTrainedModel]


@pytest.fixture
def make_any(make_model: Callable[..., SteelForCausalLM]) -> MakeAny:
    """A tiny model of an architecture, in evaluation mode; `steel:ROUTING` is ours."""

    def build(kind: str, device: str = "cpu") -> PreTrainedModel:
        if kind.startswith("steel"):
            return make_model(routing=kind.partition(":")[2] or "token")
        names = {"hidden_size": "n_embd", "num_attention_heads": "n_head"}
        shape = {names.get(k, k) if kind == "gpt2" else k: v for k, v in SHAPE.items()}
        config = AutoConfig.for_model(kind, **shape)
        attention = "eager" if kind == "gemma2" else "sdpa"
        torch.manual_seed(0)
        with torch.device(device):
            built = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        return built.eval()

    return build


def without_logits(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a call of the whole model, which makes all logits, fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("all logits were made")

    monkeypatch.setattr(model, "forward", refuse)


@pytest.mark.parametrize("kind", ["steel", *PLAIN, *CHANGED])
def test_equals_the_models_own_loss(
    kind: str, make_any: MakeAny, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model = make_any(kind)
    expected = language_model(input_ids=tokens, labels=tokens, use_cache=False).loss
    expected.backward()
    gradients = [p.grad.clone() for p in language_model.parameters() if p.grad is not None]
    by_row = [
        language_model(input_ids=row[None], labels=row[None], use_cache=False).loss.detach()
        for row in tokens
    ]
    language_model.zero_grad()

    model_with_loss = ModelWithLoss(language_model)
    if kind not in CHANGED:
        without_logits(language_model, monkeypatch)
    losses = model_with_loss(tokens[:, :-1].int(), tokens[:, 1:].int())
    losses.mean().backward()
    torch.testing.assert_close(losses.mean(), expected)
    found = [p.grad for p in language_model.parameters() if p.grad is not None]
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not losses.by_sample.requires_grad
    assert losses.num_targets.tolist() == [11, 11, 11]
    torch.testing.assert_close(losses.by_sample, 11 * torch.stack(by_row))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_head_is_plain_only_where_nothing_else_touches_logits(
    make_any: MakeAny, device: str
) -> None:
    for kind in PLAIN:
        language_model = make_any(kind, device=device)
        assert plain_head(language_model) is language_model.get_output_embeddings(), kind
        assert language_model.config._attn_implementation == "sdpa", "left as it was"
    for kind in CHANGED:
        assert plain_head(make_any(kind, device=device)) is None, kind


def test_what_changes_hidden_states_before_the_head_is_found(make_any: MakeAny) -> None:
    language_model = make_any("llama")
    head = language_model.get_output_embeddings()
    own = language_model.forward

    def scaled(**kwargs: Any) -> Any:
        output = own(**kwargs)
        output.logits = head(language_model.base_model(**kwargs).last_hidden_state / 2)
        return output

    language_model.forward = scaled
    assert plain_head(language_model) is None


def packed(kind: str, tokens: Tensor) -> tuple[dict[str, Any], list[list[int]]]:
    """A micro-batch of two rows that hold documents of these lengths."""
    rows = [[5, 1, 6], [11, 1]]
    lengths = [n for row in rows for n in row]
    ids = tokens[:2].contiguous()
    return {
        "input_ids": ids,
        "labels": ids.roll(-1, dims=1),
        "position_ids": torch.cat([torch.arange(n) for n in lengths]).view(2, 12),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "max_seqlen": 11,
    }, rows


@pytest.mark.parametrize("known", ["all", "bounds", "positions"])
@pytest.mark.parametrize(
    "kind", ["steel", "steel:sequence", "steel:reference_norm", "steel:dense", "qwen2", "llama"]
)
def test_documents_are_independent(
    kind: str, known: str, make_any: MakeAny, tokens: Tensor
) -> None:
    language_model = make_any(kind)
    batch, rows = packed(kind, tokens)
    model_with_loss = ModelWithLoss(language_model)
    documents = document_arguments(batch, lambda tensor: tensor)
    assert list(documents) == ["position_ids", "cu_seqlens", "max_seqlen"]
    dropped = {"bounds": ["position_ids"], "positions": ["cu_seqlens", "max_seqlen"]}
    for name in dropped.get(known, []):
        del documents[name]
    losses = model_with_loss(batch["input_ids"], batch["labels"], **documents)

    alone = 0.0
    for ids, labels, lengths in zip(batch["input_ids"], batch["labels"], rows, strict=True):
        for part, targets in zip(ids.split(lengths), labels.split(lengths), strict=True):
            logits = language_model(input_ids=part[None]).logits[0]
            alone += functional.cross_entropy(logits, targets, reduction="sum").item()
    assert losses.total.item() == pytest.approx(alone, rel=1e-5)
    joined = model_with_loss(batch["input_ids"], batch["labels"])
    assert joined.total.item() != pytest.approx(losses.total.item(), rel=1e-5)


def test_a_kernel_of_another_architecture_is_given_bounds(
    make_any: MakeAny, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash kernels do not find documents by positions in batches of several rows."""
    language_model = make_any("llama")
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("model.train.loss.supports_document_bounds", lambda *_: True)
    language_model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True
    )
    batch, _ = packed("llama", tokens)
    model_with_loss = ModelWithLoss(language_model)
    seen.clear()
    documents = document_arguments(batch, lambda tensor: tensor)
    model_with_loss(batch["input_ids"], batch["labels"], **documents)
    model_with_loss(batch["input_ids"], batch["labels"], batch["position_ids"])
    for kwargs in seen:
        assert torch.equal(kwargs["cu_seq_lens_q"], batch["cu_seqlens"])
        assert kwargs["cu_seq_lens_k"] is kwargs["cu_seq_lens_q"]
        assert kwargs["max_length_q"] == kwargs["max_length_k"] >= 11
    assert len(seen) == 2


def test_a_batch_without_documents_says_nothing_about_them() -> None:
    ids = torch.zeros(1, 2)
    assert document_arguments({"input_ids": ids, "labels": ids}, lambda tensor: tensor) == {}


def test_ignored_targets_do_not_count(
    make_model: Callable[..., SteelForCausalLM], tokens: Tensor
) -> None:
    model_with_loss = ModelWithLoss(make_model())
    labels = tokens[:, 1:].clone()
    labels[0, 3:] = IGNORED
    labels[2] = IGNORED
    full = model_with_loss(tokens[:, :-1], tokens[:, 1:]).by_sample
    losses = model_with_loss(tokens[:, :-1], labels)
    short = model_with_loss(tokens[:1, :3], tokens[:1, 1:4]).by_sample
    assert losses.num_targets.tolist() == [3, 11, 0]
    torch.testing.assert_close(
        losses.by_sample, torch.stack([short[0], full[1], torch.tensor(0.0)])
    )
    torch.testing.assert_close(losses.mean(), losses.by_sample.sum() / 14)


@pytest.mark.parametrize("kind", ["steel", "qwen2", "gemma2"])
def test_a_micro_batch_without_a_target_adds_nothing(
    kind: str, make_any: MakeAny, tokens: Tensor
) -> None:
    language_model = make_any(kind)
    losses = ModelWithLoss(language_model)(tokens, torch.full_like(tokens, IGNORED))
    losses.total.backward()
    assert losses.total.item() == losses.mean().item() == 0
    assert losses.num_targets.tolist() == losses.by_sample.tolist() == [0, 0, 0]
    for name, parameter in language_model.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_no_weight_is_in_the_state_twice(make_any: MakeAny) -> None:
    language_model = make_any("qwen2")
    names = list(ModelWithLoss(language_model).state_dict())
    assert names == [f"model.{name}" for name in language_model.state_dict()]
