"""Steps of a fine-tuning and their rows: each sample once an epoch, in rows that change nothing."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from model import SteelConfig, SteelForCausalLM
from model.attention import BY_DOCUMENT
from model.train.finetune.batches import (
    ALIGNMENT,
    Document,
    StepOrder,
    lay_out,
    packed_batch,
    padded_batch,
)
from model.train.finetune.data import RowLayout
from model.train.finetune.held_out import MIN_ROWS, held_out
from model.train.loss import ModelWithLoss, document_arguments

pytestmark = pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")

ROUTINGS = ("token", "uniform", "dense", "sequence", "reference_norm")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=70),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 3),
)
def test_an_epoch_holds_each_sample_once(
    lengths: list[int], size: int, grouped: bool, epoch: int
) -> None:
    total = len(lengths)
    order = StepOrder(
        num_samples=total,
        global_batch_size=size,
        seed=7,
        lengths=np.array(lengths) if grouped else None,
    )
    steps = range(epoch * order.steps_in_epoch, (epoch + 1) * order.steps_in_epoch)
    found = [order.samples(step).tolist() for step in steps]
    assert sorted(itertools.chain(*found)) == list(range(total))
    assert [len(samples) for samples in found[:-1]] == [size] * (len(found) - 1)
    consumed = [order.num_before(step) - epoch * total for step in steps]
    assert consumed == [0, *itertools.accumulate(map(len, found))][:-1]
    again = StepOrder(num_samples=total, global_batch_size=size, seed=7, lengths=order.lengths)
    assert again.samples(steps[-1]).tolist() == found[-1], "an order has a memory"


def test_lengths_of_grouped_steps_have_no_trace_of_the_groups() -> None:
    """Saw-teeth: sorted groups one after the other, whose steps fall in length, group by group."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(5, 1, 16 * 1000).astype(np.int64)
    order = StepOrder(num_samples=len(lengths), global_batch_size=16, seed=3, lengths=lengths)
    means = np.array([np.log(lengths[order.samples(step)]).mean() for step in range(1000)])
    within = [np.log(lengths[order.samples(step)]).std() for step in range(1000)]
    assert np.mean(within) < 0.1 < np.log(lengths).std()
    lags = [np.corrcoef(means[:-lag], means[lag:])[0, 1] for lag in (1, 2, 5, 25, 50, 100)]
    assert max(np.abs(lags)) < 0.15  # five standard deviations of white noise's
    sorted_within = np.concatenate([-np.sort(-means[at : at + 50]) for at in range(0, 1000, 50)])
    assert np.corrcoef(sorted_within[:-1], sorted_within[1:])[0, 1] > 0.6, "the test sees none"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
)
def test_rows_hold_every_sample_once_on_any_number_of_ranks(
    lengths: list[int], num_ranks: int, micro: int, packed: bool
) -> None:
    array = np.array(lengths)
    divided = lay_out(
        array, num_ranks=num_ranks, micro_batch_size=micro, row_tokens=64 * micro, packed=packed
    )
    assert all(len(part) == num_ranks for part in divided)
    found = [sample for part in divided for own in part for sample in own]
    assert sorted(found) == list(range(len(lengths)))
    for own in itertools.chain(*divided):
        assert array[own].sum() <= 64 * micro
        if not packed:
            assert len(own) <= micro
    if packed:  # no more micro-batches than samples of the greatest length would need
        assert len(divided) <= -(-len(lengths) // num_ranks)


@pytest.mark.parametrize("num_ranks", [1, 8])
def test_packed_steps_are_real_tokens_and_even(num_ranks: int) -> None:
    random = np.random.default_rng(1)
    lengths = np.minimum(2048, random.lognormal(5.3, 1.0, 256 * 40).astype(np.int64) + 20)
    layout = RowLayout(packed=True, micro_batch_size=8, row_tokens=8 * 2048, padding_id=0)
    order = StepOrder(num_samples=len(lengths), global_batch_size=256, seed=0)
    real = computed = waited = 0
    for step in range(order.steps_in_epoch):
        of_step = lengths[order.samples(step)]
        real += int(of_step.sum())
        for ranks in layout.divide(of_step, num_ranks):
            sizes = [layout.computed_tokens(of_step[own]) for own in ranks]
            computed += sum(sizes)
            waited += num_ranks * max(sizes)
    assert real / computed > 0.99
    assert real / waited > 0.98, "ranks wait for the one with the longest row"


def documents(seed: int, count: int, *, vocabulary: int = 60) -> list[Document]:
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ids = random.integers(3, vocabulary, random.integers(2, 30))
        labels = np.where(random.random(len(ids)) < 0.4, ids, -100)
        labels[-1] = ids[-1]
        found.append(Document(ids, labels, number % 3, number))
    return found


def model_of(routing: str, attention: str = "sdpa") -> ModelWithLoss:
    torch.manual_seed(0)
    options: dict[str, Any] = {"routing": routing}
    if routing == "other architecture":
        config: Any = Qwen2Config(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        network: Any = Qwen2ForCausalLM
    else:
        config = SteelConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            expert_intermediate_size=8,
            num_experts=2,
            initializer_range=0.3,
            **options,
        )
        network = SteelForCausalLM
    config._attn_implementation = attention
    return ModelWithLoss(network(config).double())


def loss_and_gradient(
    model: ModelWithLoss, batch: Any, sample: int | None = None
) -> tuple[float, list[torch.Tensor]]:
    """Sum over all targets, or over those of one sample, and its gradient."""
    model.zero_grad()
    arguments = document_arguments(batch, lambda tensor: tensor)
    losses = model(batch["input_ids"], batch["labels"], each_target=True, **arguments)
    total = losses.by_token
    if sample is not None:
        total = total[batch["samples"] == sample]
    summed = total.sum()
    summed.backward()
    gradient = [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()
    ]
    return summed.item(), gradient


def assert_equal(one: tuple[float, Any], other: tuple[float, Any], tolerance: float) -> None:
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    scale = max(float(g.abs().max()) for g in other[1])
    for a, b in zip(one[1], other[1], strict=True):
        assert float((a - b).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("attention", ["sdpa", "eager", BY_DOCUMENT])
@pytest.mark.parametrize("routing", [*ROUTINGS, "other architecture"])
def test_a_conversations_loss_and_gradient_do_not_change_when_its_neighbour_does(
    routing: str, attention: str
) -> None:
    model = model_of(routing, attention)
    mine, *others = documents(1, 5)
    neighbours = [others, [d._replace(sample=9) for d in documents(2, 3)], []]
    alone = loss_and_gradient(model, padded_batch([mine], padding_id=0, separate=True), 0)
    for around in neighbours:
        for row in ([mine, *around], [*around, mine]):
            packed = packed_batch(row, padding_id=0)
            assert_equal(loss_and_gradient(model, packed, 0), alone, 1e-6)
            padded = padded_batch(row, padding_id=0, separate=True)
            assert_equal(loss_and_gradient(model, padded, 0), alone, 1e-6)


@pytest.mark.parametrize("routing", [*ROUTINGS, "other architecture"])
@pytest.mark.parametrize("separate", [False, True])
def test_padding_takes_no_part(routing: str, separate: bool) -> None:
    if not separate and routing in ("sequence", "reference_norm"):
        pytest.skip("a routing that sees what follows a token is told where padding begins")
    model = model_of(routing)
    rows = documents(3, 4)
    one, other = (
        loss_and_gradient(model, padded_batch(rows, padding_id=pad, separate=separate))
        for pad in (0, 63)
    )
    assert_equal(one, other, 1e-6)


def test_the_attention_of_packed_rows_makes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("token", BY_DOCUMENT)
    shapes = []
    original = torch.nn.functional.scaled_dot_product_attention

    def note(query: Any, key: Any, value: Any, attn_mask: Any = None, **rest: Any) -> Any:
        assert attn_mask is None
        shapes.append(query.shape[2])
        return original(query, key, value, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    rows = documents(4, 6)
    loss_and_gradient(model, packed_batch(rows, padding_id=0))
    lengths = [len(d.ids) for d in rows]
    padding = -sum(lengths) % ALIGNMENT
    assert Counter(shapes) == Counter(2 * [*lengths, *([padding] if padding else [])])


def test_loss_and_gradient_are_those_of_trl(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = model_of("token")
    network = model.model.float()
    network.save_pretrained(tmp_path / "model")
    rows = documents(5, 6)
    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    inputs = collate([{"input_ids": d.ids.tolist(), "labels": d.labels.tolist()} for d in rows])
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    loss = reference(**inputs).loss
    loss.backward()
    total, gradient = loss_and_gradient(model, packed_batch(rows, padding_id=0))
    targets = sum(int((d.labels[1:] != -100).sum()) for d in rows)
    expected = [p.grad for p in reference.parameters()]
    assert_equal((total / targets, [g / targets for g in gradient]), (loss.item(), expected), 1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=400), st.integers(0, 5))
def test_what_is_held_out_depends_on_the_sample_alone(digests: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.array([*digests, *random.integers(0, 2**63, 300)], np.uint64)
    sets = random.integers(0, 3, len(values))
    apart = held_out(values, sets, 0.2)
    shuffled = random.permutation(len(values))
    assert (held_out(values[shuffled], sets[shuffled], 0.2) == apart[shuffled]).all()
    # Equal samples are held out together, in whatever set they are.
    assert not set(values[apart].tolist()) & set(values[~apart].tolist())


def test_a_hundredth_of_each_set_that_is_large_enough_is_held_out() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**63, 20_000 + MIN_ROWS - 1).astype(np.uint64)
    sets = np.array([0] * 15_000 + [1] * 5_000 + [2] * (MIN_ROWS - 1))
    apart = held_out(values, sets, 0.01)
    found = np.bincount(sets[apart], minlength=3)
    assert abs(found[0] - 150) < 50  # four standard deviations
    assert abs(found[1] - 50) < 29
    assert found[2] == 0
    assert not held_out(values, sets, 0.0).any()
    # The same sample is held out of any mixture that takes enough of its set.
    half = slice(0, 7000)
    assert (held_out(values[half], sets[half], 0.01) == apart[half]).all()
