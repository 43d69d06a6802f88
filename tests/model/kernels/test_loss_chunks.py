"""Chunks in which the loss of a projection is made: their sizes, and sums over any of them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.cost.memory import LOGITS_BUDGET, chunk_rows
from model.kernels.cross_entropy import linear_cross_entropy
from tests.model.kernels.cases import loss_inputs


@settings(max_examples=30, deadline=None)
@given(
    num_tokens=st.integers(1, 20),
    chunk_size=st.integers(1, 25),
    ignored=st.sets(st.integers(0, 19)),
    ignore_index=st.sampled_from([-100, -1, 3]),
    seed=st.integers(0, 2**16),
)
def test_sum_over_any_chunks_and_ignored_targets(
    num_tokens: int, chunk_size: int, ignored: set[int], ignore_index: int, seed: int
) -> None:
    hidden, weight, targets = loss_inputs((num_tokens, 6, 9), torch.float32, seed)
    targets.clamp_(min=0)
    for index in ignored:
        targets[index % num_tokens] = ignore_index
    found = linear_cross_entropy(
        hidden, weight, targets, ignore_index, chunk_size=chunk_size, reduction="sum"
    )
    expected = torch.nn.functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=ignore_index, reduction="sum"
    )
    torch.testing.assert_close(found, expected)


@settings(max_examples=200, deadline=None)
@given(tokens=st.integers(1, 200_000), row=st.integers(1, 2**22), budget=st.integers(1, 2**31))
def test_chunks_are_few_equal_and_within_the_budget(tokens: int, row: int, budget: int) -> None:
    rows = chunk_rows(tokens, row, budget)
    assert rows * row <= max(budget, row)
    most = max(1, budget // row)
    fewest = -(-tokens // most)
    # Whole tiles may cost a chunk more where a chunk is hardly larger than a tile.
    assert -(-tokens // rows) <= -(-tokens // max(1, most - most % 256)) or rows < 256
    assert -(-tokens // rows) >= fewest


def test_the_paper_s_step_takes_four_chunks() -> None:
    rows = chunk_rows(16_384, 151_936 * 2)
    assert rows == 4096
    assert rows * 151_936 * 2 <= LOGITS_BUDGET
