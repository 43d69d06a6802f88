"""The model as a whole: causality, cache, packing, padding, generation, files, loss."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from model import SteelConfig, SteelForCausalLM, SteelModel
from model.soft_moe import LeakWarning
from model.train.loss import ModelWithLoss
from tests.model.references import loss_of_prefixes

CAUSAL = ["token", "uniform", "dense"]
LEAKING = ["sequence", "reference_norm"]
Maker = Callable[..., SteelForCausalLM]


def logits(model: SteelForCausalLM, ids: Tensor, **kwargs: object) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(ids, **kwargs).logits
    return result


def sharpen(model: SteelForCausalLM) -> SteelForCausalLM:
    """Larger weights, so that no difference hides in nearly uniform outputs."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(4)
    return model


# ── causality ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("routing", CAUSAL)
@pytest.mark.parametrize("changed", [1, 7, 11])
def test_earlier_logits_do_not_depend_on_a_token(
    make_model: Maker, tokens: Tensor, routing: str, attention: str, changed: int
) -> None:
    model = sharpen(make_model(routing=routing, attn_implementation=attention))
    assert model.config._attn_implementation == attention
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % model.vocab_size
    before, after = logits(model, tokens), logits(model, other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.equal(before[:, changed:], after[:, changed:])


@pytest.mark.parametrize("routing", LEAKING)
def test_sequence_routing_shows_later_tokens(
    make_model: Maker, tokens: Tensor, routing: str
) -> None:
    model = sharpen(make_model(routing=routing))
    other = tokens.clone()
    other[:, 9] = (other[:, 9] + 1) % model.vocab_size
    changes = (logits(model, tokens) - logits(model, other)).abs().amax(dim=-1)
    assert (changes[:, :9] > 0).all()


@pytest.mark.parametrize("routing", CAUSAL)
def test_loss_of_prefixes_is_the_parallel_loss_where_nothing_leaks(
    make_model: Maker, tokens: Tensor, routing: str
) -> None:
    model = sharpen(make_model(routing=routing))
    with torch.no_grad():
        parallel = model(tokens, labels=tokens).loss
    torch.testing.assert_close(loss_of_prefixes(model, tokens), parallel)


def test_loss_of_prefixes_differs_where_routing_leaks(make_model: Maker, tokens: Tensor) -> None:
    model = sharpen(make_model(routing="sequence"))
    with torch.no_grad():
        parallel = model(tokens, labels=tokens).loss
    assert (loss_of_prefixes(model, tokens) - parallel).abs() > 1e-3


# ── an independent model ─────────────────────────────────────────────────────────────────────────


def test_dense_model_computes_what_qwen2_computes(make_model: Maker, tokens: Tensor) -> None:
    ours = sharpen(make_model(routing="dense", num_key_value_heads=2))
    config = ours.config
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.dense_intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
        )
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(logits(ours, tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


# ── cache and generation ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("routing", CAUSAL)
def test_cached_decoding_is_the_full_pass(
    make_model: Maker, tokens: Tensor, routing: str, attention: str
) -> None:
    model = sharpen(make_model(routing=routing, attn_implementation=attention))
    full = logits(model, tokens)
    with torch.no_grad():
        step = model(tokens[:, :5], use_cache=True)
        pieces = [step.logits]
        for start, end in ((5, 6), (6, 9), (9, 10), (10, 11), (11, 12)):
            step = model(tokens[:, start:end], past_key_values=step.past_key_values, use_cache=True)
            pieces.append(step.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, rtol=1e-4, atol=1e-4)


def greedy_by_hand(model: SteelForCausalLM, ids: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        best = logits(model, ids, use_cache=False)[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


@pytest.mark.parametrize("routing", [*CAUSAL, *LEAKING])
def test_greedy_generation_recomputes_to_the_same_tokens(
    make_model: Maker, tokens: Tensor, routing: str
) -> None:
    model = sharpen(make_model(routing=routing, eos_token_id=None))
    made = model.generate(tokens, max_new_tokens=6, do_sample=False)
    assert torch.equal(made, greedy_by_hand(model, tokens, 6))


@pytest.mark.parametrize("routing", LEAKING)
def test_cached_decoding_of_leaking_routing_is_an_explicit_choice(
    make_model: Maker, tokens: Tensor, routing: str
) -> None:
    model = sharpen(make_model(routing=routing))
    assert model(tokens).past_key_values is None
    cache = sharpen(make_model(routing="token"))(tokens, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="decode_with_cache"):
        model(tokens[:, :1], past_key_values=cache)

    chosen = sharpen(make_model(routing=routing, decode_with_cache=True))
    with torch.no_grad():
        step = chosen(tokens[:, :-1], use_cache=True)
        last = chosen(tokens[:, -1:], past_key_values=step.past_key_values).logits[:, -1]
    # Another function than the one trained: that is why it has to be asked for.
    assert (last - logits(chosen, tokens)[:, -1]).abs().max() > 1e-3


def test_static_cache_generates_the_same(make_model: Maker, tokens: Tensor) -> None:
    model = sharpen(make_model(eos_token_id=None))
    made = model.generate(
        tokens,
        max_new_tokens=5,
        do_sample=False,
        cache_implementation="static",
        disable_compile=True,
    )
    assert torch.equal(made, greedy_by_hand(model, tokens, 5))


@pytest.mark.parametrize("routing", [*CAUSAL, *LEAKING])
def test_padding_on_the_left_changes_nothing(
    make_model: Maker, tokens: Tensor, routing: str
) -> None:
    model = sharpen(make_model(routing=routing, eos_token_id=None))
    alone = tokens[:1, :7]
    padded = torch.full((2, 10), model.config.pad_token_id)
    padded[0, 3:], padded[1] = alone[0], tokens[1, :10]
    mask = (padded != model.config.pad_token_id).long()
    together = model.generate(padded, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert torch.equal(
        together[0, 10:], model.generate(alone, max_new_tokens=4, do_sample=False)[0, 7:]
    )
    positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
    seen = logits(model, padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(seen[:1, 3:], logits(model, alone), rtol=1e-4, atol=1e-4)


def test_beam_search_finds_the_best_of_all_continuations(make_model: Maker) -> None:
    model = sharpen(make_model(vocab_size=7, eos_token_id=None))
    prompt = torch.tensor([[3, 5]])
    made = model.generate(prompt, max_new_tokens=2, num_beams=7, do_sample=False)
    every = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    rows = torch.cat([prompt.expand(49, -1), every], dim=1)
    scores = logits(model, rows).log_softmax(dim=-1)[:, 1:3]
    total = scores.gather(-1, every.unsqueeze(-1)).sum(dim=(1, 2))
    assert torch.equal(made[0, 2:], every[total.argmax()])


# ── packed documents ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("extra", ["nothing", "cache", "mask", "right padding", "training"])
def test_packed_documents_do_not_see_each_other(
    make_model: Maker, tokens: Tensor, attention: str, extra: str
) -> None:
    model = sharpen(make_model(attn_implementation=attention))
    kwargs: dict[str, object] = {"use_cache": extra == "cache"}
    if extra == "training":
        model.train()
        kwargs = {}
    row, end = tokens[:1], 12
    if extra == "mask":
        kwargs["attention_mask"] = torch.ones_like(row)
    if extra == "right padding":
        end = 10
        kwargs["attention_mask"] = (torch.arange(12) < end).long().unsqueeze(0)
    positions = torch.cat([torch.arange(5), torch.arange(7)]).unsqueeze(0)
    packed = logits(model, row, position_ids=positions, **kwargs)
    torch.testing.assert_close(packed[:, :5], logits(model, row[:, :5]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed[:, 5:end], logits(model, row[:, 5:end]), rtol=1e-4, atol=1e-4)


def test_packed_documents_with_padding_before_them_are_refused(
    make_model: Maker, tokens: Tensor
) -> None:
    positions = torch.tensor([[0, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]]).expand(3, -1)
    mask = torch.ones_like(tokens)
    mask[:, 0] = 0
    with pytest.raises(ValueError, match="pad packed rows on the right"):
        make_model()(tokens, attention_mask=mask, position_ids=positions)


# ── files and initialisation ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("routing", [*CAUSAL, *LEAKING])
@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
def test_saved_model_comes_back_equal_through_the_auto_classes(
    make_model: Maker, tokens: Tensor, tmp_path: Path, routing: str
) -> None:
    model = sharpen(make_model(routing=routing, learn_gain=routing == "token"))
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is SteelForCausalLM
    assert torch.equal(logits(loaded.eval(), tokens), logits(model, tokens))
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is SteelModel
    with torch.no_grad():
        hidden = base.eval()(tokens).last_hidden_state
    assert torch.equal(model.lm_head(hidden), logits(model, tokens))


def test_loading_in_bf16_keeps_positions_exact(
    make_model: Maker, tokens: Tensor, tmp_path: Path
) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    # Only differences of positions matter. At 60,000, angles kept in bf16 would be far off.
    near = logits(loaded, tokens, position_ids=torch.arange(12).unsqueeze(0))
    far = logits(loaded, tokens, position_ids=torch.arange(60_000, 60_012).unsqueeze(0))
    torch.testing.assert_close(near, far, rtol=0, atol=0.02)


def test_parameters_missing_from_a_checkpoint_start_as_configured(
    make_model: Maker, tmp_path: Path
) -> None:
    model = make_model(learn_gain=True, gain=2.0)
    kept = {k: v for k, v in model.state_dict().items() if ".mlp." not in k and "norm" not in k}
    model.save_pretrained(tmp_path, state_dict=kept)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for layer in loaded.model.layers:
        moe = layer.mlp
        assert moe.scale.tolist() == [1.0]
        assert moe.gain.tolist() == [2.0]
        assert layer.input_layernorm.weight.eq(1).all()
        assert moe.phi.std().item() == pytest.approx(24**-0.5, rel=0.3)
        assert moe.experts.gate_in.std().item() == pytest.approx(24**-0.5, rel=0.3)
        assert moe.experts.up_out.std().item() == pytest.approx(10**-0.5, rel=0.3)


def test_every_parameter_is_initialised_and_none_twice_alike(make_model: Maker) -> None:
    one, same, other = make_model(0), make_model(0), make_model(1)
    pairs = zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True)
    for (name, value), equal, different in pairs:
        assert torch.equal(value, equal), name
        constant = "norm" in name or name.endswith(("bias", "scale"))
        assert torch.equal(value, different) == constant, name


def test_there_is_no_buffer_to_lose(make_model: Maker) -> None:
    assert not list(make_model().buffers())


# ── loss and training ────────────────────────────────────────────────────────────────────────────


def test_all_ways_to_the_loss_agree(make_model: Maker, tokens: Tensor) -> None:
    model = sharpen(make_model())
    labels = tokens.clone()
    labels[0, :6] = -100
    shifted = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    by_hand = nn.functional.cross_entropy(
        logits(model, tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    kept = int((shifted != -100).sum())
    for kwargs, factor in (
        ({"labels": labels}, 1.0),
        ({"shift_labels": shifted}, 1.0),
        ({"labels": labels, "num_items_in_batch": 2 * kept}, 0.5),
    ):
        torch.testing.assert_close(model(tokens, **kwargs).loss, by_hand * factor)
    without_logits = ModelWithLoss(model)(tokens, shifted)
    torch.testing.assert_close(without_logits.mean(), by_hand)


def test_checkpointing_activations_changes_no_gradient(make_model: Maker, tokens: Tensor) -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(tokens, labels=tokens).loss.backward()
        found = [parameter.grad for parameter in model.parameters()]
        assert all(gradient is not None for gradient in found)
        return [gradient for gradient in found if gradient is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, recomputed)


def test_the_end_token_learns_although_it_also_pads(make_model: Maker, tokens: Tensor) -> None:
    model = make_model(pad_token_id=1)
    row = tokens.clone()
    row[:, 4] = 1
    model(row, labels=row).loss.backward()
    assert model.model.embed_tokens.weight.grad[1].abs().sum() > 0


def test_bf16_autocast_trains_on_the_cpu(make_model: Maker, tokens: Tensor) -> None:
    model = make_model().train()
    model_with_loss = ModelWithLoss(model)
    exact = model_with_loss(tokens[:, :-1], tokens[:, 1:]).mean()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model_with_loss(tokens[:, :-1], tokens[:, 1:]).mean()
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=1e-2)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_hidden_states_and_attentions_are_given_on_request(
    make_model: Maker, tokens: Tensor
) -> None:
    model = make_model(attn_implementation="eager")
    output = model(tokens, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3
    assert [tuple(a.shape) for a in output.attentions] == [(3, 4, 12, 12)] * 2


def test_building_a_leaking_model_warns_once(make_model: Maker) -> None:
    config: SteelConfig = make_model(routing="sequence").config
    with pytest.warns(LeakWarning) as caught:
        SteelForCausalLM(config)
    assert len(caught) == 1
