"""Whole matrices of row shards, whatever the number of ranks, rows and matrices."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.train.distributed.context import distributed_context
from model.train.optim.exchange import Exchange, Piece, Stack
from tests.model.train import ranks

STACKS = (
    Stack(shape=(12, 5), number=3),  # experts [4, 5] below each other
    Stack(shape=(7, 3), number=1),
    Stack(shape=(5, 4, 3), number=5),  # experts [4, 3] on an axis of their own
    Stack(shape=(2, 9), number=1),  # fewer rows than ranks
    Stack(shape=(6, 5), number=2),
)


def whole_weights() -> list[Tensor]:
    weights, first = [], 0
    for stack in STACKS:
        size = math.prod(stack.shape)
        weights.append(torch.arange(first, first + size, dtype=torch.float64).view(stack.shape))
        first += size
    return weights


def signed(matrix: Tensor) -> Tensor:
    """A result that only a whole matrix gives, and each another one."""
    return matrix.flip(0) * matrix.sum() + matrix.shape[1]


def exchange_on_a_rank(rank: int, width: int, group: dist.ProcessGroup | None, bound: int) -> None:
    """Every rank reads its shards, and finds what was made of whole matrices in its shards."""
    wholes = whole_weights()
    shards, results, ranges = [], [], []
    for whole, stack in zip(wholes, STACKS, strict=True):
        chunks = whole.chunk(width)  # how FSDP2 cuts rows
        local = chunks[rank] if rank < len(chunks) else whole[:0]
        low, high = stack.shard(rank, width)
        assert torch.equal(whole.view(-1)[low:high], local.reshape(-1))
        shards.append(local.reshape(-1))
        results.append(torch.full_like(shards[-1], math.nan))
        ranges.append((low, high))
    seen: list[tuple[int, ...]] = []

    def work(matrices: list[Tensor]) -> list[Tensor]:
        seen.extend(tuple(matrix.shape) for matrix in matrices)
        assert sum(m.numel() for m in matrices) <= max(bound, max(map(Tensor.numel, wholes)))
        return [signed(matrix) for matrix in matrices]

    def write(piece: Piece, part: Tensor) -> None:
        results[piece.stack][piece.start : piece.stop] = part

    exchange = Exchange(STACKS, rank=rank, width=width, group=group, round_elements=bound)
    exchange.run(
        lambda piece: shards[piece.stack][piece.start : piece.stop],
        work,
        write,
        empty=torch.empty(0, dtype=torch.float64),
    )
    for whole, stack, found, (low, high) in zip(wholes, STACKS, results, ranges, strict=True):
        matrices = whole.view(stack.number, *stack.matrix_shape)
        expected = torch.stack([signed(matrix) for matrix in matrices]).view(-1)[low:high]
        assert torch.equal(found, expected), stack
    number = sum(stack.number for stack in STACKS)
    assert len(seen) in (number // width, -(-number // width)), "the work is spread evenly"


def exchange_in_rank(bound: int) -> None:
    with distributed_context() as here:
        exchange_on_a_rank(here.rank, here.world_size, dist.group.WORLD, bound)


@pytest.mark.parametrize("bound", [1, 40, 10**6])
def test_one_rank_works_on_whole_matrices(bound: int) -> None:
    exchange_on_a_rank(0, 1, None, bound)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize(("world_size", "bound"), [(2, 40), (3, 10**6), (4, 1)])
def test_ranks_see_whole_matrices_and_get_their_own_rows_back(world_size: int, bound: int) -> None:
    assert ranks.run_function(exchange_in_rank, world_size, bound) == [0] * world_size


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_what_is_sent_is_what_the_documentation_says(width: int) -> None:
    """E (W - 1) / W^2 elements to owners where ranks have equal parts of all; nothing twice."""
    stacks = [Stack(shape=(24, 16), number=1) for _ in range(24)]
    everything = sum(math.prod(stack.shape) for stack in stacks)
    sent = torch.zeros(width, width)
    for rank in range(width):
        for now in Exchange(stacks, rank=rank, width=width).rounds:
            sent[rank] += torch.tensor(now.sent)
            assert sum(now.sent) == sum(piece.stop - piece.start for piece in now.pieces)
    assert float(sent.sum()) == everything
    leaving = float(sent.sum() - sent.diagonal().sum()) / width
    assert leaving == pytest.approx(everything * (width - 1) / width**2)
