"""Packed documents are as good as separate rows: tiles, routing, the whole model, gradients."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import SteelForCausalLM
from model.documents import (
    MAX_TILE,
    Documents,
    documents_from_bounds,
    documents_from_positions,
    from_tiles,
    softmax_by_document,
    spread,
    sum_tiles,
    tiles_of,
    to_tiles,
)
from model.train.activation_checkpoint import ActivationCheckpointing, checkpoint_activations

ROUTINGS = ["token", "sequence", "reference_norm", "uniform", "dense"]
Maker = Callable[..., SteelForCausalLM]


def bounds_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def one_row(lengths: list[int]) -> Documents:
    return documents_from_bounds(bounds_of(lengths), max(lengths), 1, sum(lengths))


def positions_of(lengths: list[int]) -> Tensor:
    return torch.cat([torch.arange(n) for n in lengths])


lengths_of_documents = st.lists(
    st.one_of(st.integers(1, 4), st.integers(1, 150)), min_size=1, max_size=12
)


# ── tiles ────────────────────────────────────────────────────────────────────────────────────────


@given(lengths_of_documents)
@settings(deadline=None)
def test_every_token_has_one_place_in_a_tile_of_its_document(lengths: list[int]) -> None:
    documents = one_row(lengths)
    tiles = tiles_of(documents)
    owner = [k for k, n in enumerate(lengths) for _ in range(n)]
    seen = []
    for tile, document in enumerate(tiles.document.tolist()):
        tokens = tiles.token[tile][tiles.filled[tile]].tolist()
        assert all(owner[token] == document for token in tokens)
        assert tokens or document == len(lengths), "no tile of a document is empty"
        seen += tokens
    assert seen == list(range(sum(lengths)))
    assert tiles.place.tolist() == tiles.filled.flatten().nonzero().flatten().tolist()
    assert tiles.counts.tolist() == tiles.document.bincount(minlength=len(lengths) + 1).tolist()
    # However short the documents are, tiles take at most three times the room of the tokens.
    assert tiles.token.numel() <= 3 * sum(lengths) + MAX_TILE


@given(lengths_of_documents)
@settings(max_examples=30, deadline=None)
def test_sums_and_softmax_are_those_of_each_document(lengths: list[int]) -> None:
    tiles = tiles_of(one_row(lengths))
    x = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(0)).double()
    parts = x.split(lengths)
    assert torch.equal(from_tiles(to_tiles(x, tiles), tiles), x)
    totals = sum_tiles(to_tiles(x, tiles).sum(dim=1), tiles)
    torch.testing.assert_close(totals[:-1], torch.stack([part.sum(dim=0) for part in parts]))
    # Logits that would overflow without their maximum taken off.
    weights = from_tiles(softmax_by_document(to_tiles(1e3 * x, tiles), tiles), tiles)
    torch.testing.assert_close(weights, torch.cat([(1e3 * p).softmax(dim=0) for p in parts]))


def test_gradients_of_moving_and_summing_agree_with_differences() -> None:
    tiles = tiles_of(one_row([5, 1, 70, 3]))
    x = torch.randn(79, 2, dtype=torch.float64, requires_grad=True)

    def through(x: Tensor) -> Tensor:
        tiled = to_tiles(x, tiles)
        means = spread(sum_tiles(tiled.mean(dim=1), tiles), tiles)
        return from_tiles(softmax_by_document(tiled, tiles) * means.unsqueeze(1), tiles)

    assert torch.autograd.gradcheck(through, (x,))


def test_bounds_and_positions_say_the_same() -> None:
    positions = torch.stack([positions_of([3, 1, 4]), positions_of([1, 1, 6])])
    found = documents_from_positions(positions, None)
    given_ = documents_from_bounds(bounds_of([3, 1, 4, 1, 1, 6]), 6, 2, 8)
    assert found is not None
    assert torch.equal(found.cu_seqlens, given_.cu_seqlens)
    assert torch.equal(found.positions, given_.positions)
    assert torch.equal(given_.positions, positions)
    assert documents_from_positions(torch.arange(8).expand(2, -1), None) is None


# ── routing ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("routing", ["sequence", "reference_norm"])
@pytest.mark.parametrize("slots", [1, 3])
@given(lengths=lengths_of_documents)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_document_has_slots_of_its_own(
    make_model: Maker, lengths: list[int], routing: str, slots: int
) -> None:
    moe = make_model(routing=routing, slots_per_expert=slots).model.layers[0].mlp.double()
    generator = torch.Generator().manual_seed(1)
    x, direction = torch.randn(2, 1, sum(lengths), 24, dtype=torch.float64, generator=generator)
    x.requires_grad_()

    def gradients(y: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((y * direction).sum(), [x, *moe.parameters()]))

    packed = moe(x, None, tiles_of(one_row(lengths)))
    separate = torch.cat([moe(part) for part in x.split(lengths, dim=1)], dim=1)
    # Logits are fp32 by contract, whatever the rest is.
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-7)
    for one, other in zip(gradients(packed), gradients(separate), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6


# ── the model ────────────────────────────────────────────────────────────────────────────────────


def loss_and_gradients(model: SteelForCausalLM, logits: Tensor) -> list[Tensor]:
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad((logits * direction).sum(), list(model.parameters())))


@pytest.mark.parametrize("said", ["bounds", "positions"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_packed_is_separate(make_model: Maker, routing: str, attention: str, said: str) -> None:
    model = make_model(routing=routing, attn_implementation=attention)
    rows = [[5, 1, 7], [1, 1, 11]]
    ids = torch.randint(2, 61, (2, 13), generator=torch.Generator().manual_seed(3))
    if said == "bounds":
        kwargs = {"cu_seq_lens_q": bounds_of(rows[0] + rows[1]), "max_length_q": 11}
    else:
        kwargs = {"position_ids": torch.stack([positions_of(row) for row in rows])}
    packed = model(ids, use_cache=False, **kwargs).logits
    separate = torch.stack(
        [
            torch.cat([model(part[None]).logits[0] for part in row.split(lengths)])
            for row, lengths in zip(ids, rows, strict=True)
        ]
    )
    torch.testing.assert_close(packed, separate, rtol=1e-4, atol=1e-5)
    pairs = zip(
        model.named_parameters(),
        loss_and_gradients(model, packed),
        loss_and_gradients(model, separate),
        strict=True,
    )
    for (name, _), one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_another_document_changes_nothing(make_model: Maker, routing: str) -> None:
    model = make_model(routing=routing)
    ids = torch.randint(2, 61, (1, 13), generator=torch.Generator().manual_seed(4))
    other = ids.clone()
    other[0, 8] = (other[0, 8] + 1) % 61
    kwargs = {"cu_seq_lens_q": bounds_of([5, 8]), "max_length_q": 8, "use_cache": False}
    with torch.no_grad():
        before, after = model(ids, **kwargs).logits, model(other, **kwargs).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("routing", ["sequence", "reference_norm"])
def test_right_padding_of_a_packed_row_takes_no_part(make_model: Maker, routing: str) -> None:
    model = make_model(routing=routing)
    ids = torch.randint(2, 61, (1, 12), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(12) < 10).long().unsqueeze(0)
    # The padding continues the second document's positions.
    positions = positions_of([4, 8]).unsqueeze(0)
    with torch.no_grad():
        packed = model(ids, attention_mask=mask, position_ids=positions).logits
        alone = model(ids[:, 4:10]).logits
    torch.testing.assert_close(packed[:, 4:10], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["selective", "full"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_trainers_recomputing_changes_no_gradient(
    make_model: Maker, routing: str, what: ActivationCheckpointing
) -> None:
    ids = torch.randint(2, 61, (1, 12), generator=torch.Generator().manual_seed(6))
    kwargs = {"cu_seq_lens_q": bounds_of([5, 7]), "max_length_q": 7, "labels": ids}
    plain, recomputed = (make_model(routing=routing).train() for _ in range(2))
    checkpoint_activations(list(recomputed.model.layers), what)
    for model in (plain, recomputed):
        model(ids, **kwargs).loss.backward()
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_bf16_autocast_trains_packed_documents(make_model: Maker, routing: str) -> None:
    ids = torch.randint(2, 61, (1, 13), generator=torch.Generator().manual_seed(8))
    kwargs = {"cu_seq_lens_q": bounds_of([5, 1, 7]), "max_length_q": 7, "labels": ids}
    model = make_model(routing=routing).train()
    exact = model(ids, **kwargs).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, **kwargs).loss
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=1e-2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("routing", ["token", "dense"])
@pytest.mark.parametrize("changed", [0, 4, 5, 9])
def test_nothing_before_a_token_depends_on_it_in_packed_rows_either(
    make_model: Maker, routing: str, attention: str, changed: int
) -> None:
    model = make_model(routing=routing, attn_implementation=attention)
    ids = torch.randint(2, 61, (1, 12), generator=torch.Generator().manual_seed(9))
    other = ids.clone()
    other[:, changed] = (other[:, changed] + 1) % 61
    kwargs = {"cu_seq_lens_q": bounds_of([5, 7]), "max_length_q": 7, "use_cache": False}
    with torch.no_grad():
        before, after = model(ids, **kwargs).logits, model(other, **kwargs).logits
    end = 5 if changed < 5 else 12
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert (before[:, changed:end] != after[:, changed:end]).any(dim=-1).all()
    assert torch.equal(before[:, end:], after[:, end:])


def test_bounds_with_padding_before_documents_are_refused(
    make_model: Maker, tokens: Tensor
) -> None:
    mask = torch.ones_like(tokens)
    mask[1, 0] = 0
    with pytest.raises(ValueError, match="pad packed rows on the right"):
        make_model()(tokens, attention_mask=mask, cu_seq_lens_q=bounds_of([12, 12, 12]))


def test_a_mask_of_ones_own_making_is_kept(make_model: Maker, tokens: Tensor) -> None:
    """Positions that restart mean documents only where nothing else says what is seen."""
    model = make_model()
    causal = torch.ones(3, 1, 12, 12, dtype=torch.bool).tril()
    positions = torch.arange(12).remainder(6).expand(3, -1)
    with torch.no_grad():
        found = model(tokens, attention_mask=causal, position_ids=positions).logits
        apart = model(tokens, position_ids=positions).logits
    assert not torch.allclose(found[:, 6:], apart[:, 6:])


def test_bounds_do_not_go_on_in_a_cache(make_model: Maker, tokens: Tensor) -> None:
    model = make_model()
    cache = model(tokens, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cannot go on: no cache"):
        model(tokens, past_key_values=cache, cu_seq_lens_q=bounds_of([12, 12, 12]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("routing", "backend"),
    [*((routing, "aot_eager") for routing in ROUTINGS), ("sequence", "inductor")],
)
def test_layers_compile_as_one_graph(make_model: Maker, routing: str, backend: str) -> None:
    shape = {"routing": routing, "kernels": "eager", "num_hidden_layers": 1}
    model, reference = (make_model(**shape).train() for _ in range(2))
    for layer in model.model.layers:
        layer.compile(fullgraph=True, backend=backend)
    ids = torch.randint(2, 61, (2, 13), generator=torch.Generator().manual_seed(7))
    # Another number of documents in each call: compiled code must not keep the first one's.
    for rows in ([5, 8, 1, 12], [1, 1, 1, 10, 4, 9]):
        kwargs = {"cu_seq_lens_q": bounds_of(rows), "max_length_q": max(rows), "labels": ids}
        losses = []
        for one in (model, reference):
            one.zero_grad()
            loss = one(ids, **kwargs).loss
            loss.backward()
            losses.append(loss)
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
        for one, other in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
