"""Whole matrices out of row shards, and back: every rank gets some of them.

    rank 0  ▓▓▓ A0  ▓▓▓ B0        rank 0  A0 A1  (whole)        rank 0  ▓▓▓ A0'  ▓▓▓ B0'
    rank 1  ░░░ A1  ░░░ B1   ──▶  rank 1  B0 B1  (whole)   ──▶  rank 1  ░░░ A1'  ░░░ B1'
            shards of rows         each works on its own                shards of rows

FSDP2 gives rank j of W the rows [j ceil(R / W), (j + 1) ceil(R / W)) of a weight with R rows (axis
0), which lie one after the other in memory. So a matrix in a weight and a rank's shard of it are
both ranges of the flattened weight, and what a rank has of a matrix is where they overlap, whatever
the number of ranks: nothing must divide anything.

Matrices are dealt to the ranks in turn, those of one shape one after the other, and go through in
rounds that bound the buffers. A round is two all-to-alls. Of E elements in all matrices a rank
sends E (W - 1) / W^2 to their owners and as many back.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

ROUND_ELEMENTS = 1 << 25
"""Elements of whole matrices that a rank has in one round at the most, unless one alone has more:
64 MiB in bf16."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A weight, in memory one or more matrices of equal shape one after the other."""

    shape: tuple[int, ...]
    """Shape of the whole weight; shards are ranges of its first axis."""
    number: int
    """Number of matrices in it."""

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of each matrix."""
        columns = self.shape[-1]
        return math.prod(self.shape) // self.number // columns, columns

    def shard(self, rank: int, width: int) -> tuple[int, int]:
        """The range of the flattened weight that one of `width` ranks holds."""
        rows, inner = self.shape[0], math.prod(self.shape[1:])
        each = -(-rows // width)
        return min(rank * each, rows) * inner, min((rank + 1) * each, rows) * inner


@dataclass(frozen=True, kw_only=True)
class Piece:
    """This rank's part of a matrix."""

    stack: int
    """Number of the weight."""
    start: int
    """First element in this rank's shard of the weight, flattened."""
    stop: int
    """End of the range."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Matrices that are worked on at once, by all ranks."""

    pieces: list[Piece]
    """Pieces that this rank sends: of each rank's matrices, rank after rank."""
    sent: list[int]
    """Elements that go to each rank."""
    owned: list[tuple[int, int]]
    """Shapes of this rank's own matrices."""
    parts: list[list[int]]
    """Elements of each of them that come from each rank, [rank][matrix]."""

    @property
    def received(self) -> list[int]:
        """Elements that come from each rank."""
        return [sum(of_rank) for of_rank in self.parts]


class Exchange:
    """Gives each rank whole matrices, and every shard its part of what was made of them.

    Args:
        stacks: the weights; the same on every rank.
        rank, width: this rank's number, of the number of ranks that share one copy of the weights.
        group: these ranks; None for one alone.
        round_elements: bound of a rank's matrices in a round.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        *,
        rank: int = 0,
        width: int = 1,
        group: dist.ProcessGroup | None = None,
        round_elements: int = ROUND_ELEMENTS,
    ) -> None:
        self.group = group
        self.rounds = [
            _round(stacks, turns, rank, width) for turns in _turns(stacks, width, round_elements)
        ]

    def run(
        self,
        read: Callable[[Piece], Tensor],
        work: Callable[[list[Tensor]], list[Tensor]],
        write: Callable[[Piece, Tensor], None],
        *,
        empty: Tensor,
    ) -> None:
        """Read every piece once, work on whole matrices, write every piece once.

        Args:
            read: elements of a piece [stop - start].
            work: matrices -> as many of the same shapes.
            write: takes the new elements of a piece [stop - start].
            empty: a tensor [0] of the dtype and on the device of all of these.
        """
        for now in self.rounds:
            sent = torch.cat([empty, *(read(piece) for piece in now.pieces)])
            arrived = self._swap(sent, now.sent, now.received)
            made = work(_assembled(arrived, now))
            back = torch.cat([empty, *_taken_apart(made, now)])
            returned = self._swap(back, now.received, now.sent)
            sizes = [piece.stop - piece.start for piece in now.pieces]
            for piece, part in zip(now.pieces, returned.split_with_sizes(sizes), strict=True):
                write(piece, part)

    def _swap(self, outgoing: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send elements, sorted by destination; returns what came, sorted by origin."""
        if self.group is None:
            return outgoing
        incoming = outgoing.new_empty(sum(received))
        dist.all_to_all_single(incoming, outgoing, received, sent, group=self.group)
        return incoming


def _turns(
    stacks: Sequence[Stack], width: int, round_elements: int
) -> Iterator[list[list[tuple[int, int]]]]:
    """Yield what is dealt in each round: turns of up to one (weight, matrix) for each rank."""
    every = [(i, k) for i, stack in enumerate(stacks) for k in range(stack.number)]
    every.sort(key=lambda matrix: stacks[matrix[0]].matrix_shape)  # stable
    dealt: list[list[tuple[int, int]]] = []
    elements = 0
    for first in range(0, len(every), width):
        turn = every[first : first + width]
        size = max(math.prod(stacks[i].matrix_shape) for i, _ in turn)
        if dealt and elements + size > round_elements:
            yield dealt
            dealt, elements = [], 0
        dealt.append(turn)
        elements += size
    if dealt:
        yield dealt


def _round(
    stacks: Sequence[Stack], turns: list[list[tuple[int, int]]], rank: int, width: int
) -> Round:
    """A round as this rank sees it."""
    pieces: list[Piece] = []
    sent = []
    for owner in range(width):
        mine = [
            Piece(stack=i, start=start, stop=stop)
            for i, k in _dealt_to(owner, turns)
            for start, stop in [_overlap(stacks[i], k, rank, width)]
            if start < stop
        ]
        pieces += mine
        sent.append(sum(piece.stop - piece.start for piece in mine))
    own = _dealt_to(rank, turns)
    parts = []
    for origin in range(width):
        ranges = [_overlap(stacks[i], k, origin, width) for i, k in own]
        parts.append([stop - start for start, stop in ranges])
    return Round(
        pieces=pieces, sent=sent, owned=[stacks[i].matrix_shape for i, _ in own], parts=parts
    )


def _dealt_to(rank: int, turns: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [turn[rank] for turn in turns if rank < len(turn)]


def _overlap(stack: Stack, matrix: int, rank: int, width: int) -> tuple[int, int]:
    """Part of a matrix that a rank has: a range of its flattened shard, an empty one if none."""
    size = math.prod(stack.matrix_shape)
    low, high = stack.shard(rank, width)
    start, stop = max(low, matrix * size), min(high, (matrix + 1) * size)
    return start - low, max(start, stop) - low


def _assembled(arrived: Tensor, now: Round) -> list[Tensor]:
    """This rank's matrices of what came from each rank."""
    sizes = [size for of_rank in now.parts for size in of_rank]
    arrivals = arrived.split_with_sizes(sizes)
    number = len(now.owned)
    return [torch.cat(arrivals[index::number]).view(shape) for index, shape in enumerate(now.owned)]


def _taken_apart(matrices: list[Tensor], now: Round) -> list[Tensor]:
    """Parts of this rank's matrices in the order in which they came."""
    by_matrix = [
        matrix.reshape(-1).split_with_sizes([of_rank[index] for of_rank in now.parts])
        for index, matrix in enumerate(matrices)
    ]
    return [parts[origin] for origin in range(len(now.parts)) for parts in by_matrix]
