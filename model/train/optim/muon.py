"""Muon: momentum whose matrices are orthogonalised; AdamW for all that is no hidden matrix.

    G ──▶ B = m B + (1 - m) G ──▶ N = (1 - m) G + m B ──▶ O = U V^T of N = U S V^T, nearly
    W <- (1 - r w) W - 0.2 sqrt(max(a, b)) r O           W [a, b], r: rate, w: weight decay

Every singular value of an update is about 1, so every direction is learned at one speed (Jordan et
al. 2024, kellerjordan.github.io/posts/muon). With 0.2 sqrt(max(a, b)) its elements have the root
mean square of a typical AdamW update, whatever the shape, so that rates and decays of AdamW
serve (Liu et al. 2025, arXiv 2502.16982).

A matrix is seen whole, and alone: each expert of a stacked weight by itself, and under FSDP2 not
the shard of a rank (exchange.py). Momentum stays sharded as the weights are.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from model.train.optim.exchange import Exchange, Piece, Stack

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3, x^5: small singular values grow fast, large ones stay between 0.68 and 1.21."""
EPSILON = 1e-7
"""Least norm by which a matrix is divided: one without a gradient stays 0."""
ADAMW_RMS = 0.2
"""Root mean square of a typical update of AdamW, as a multiple of the rate."""


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """The orthogonal factor U V^T of each matrix U S V^T, nearly: Newton-Schulz.

    Computes in the dtype of `matrices` [N, a, b]; returns [N, a, b].
    """
    first, third, fifth = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    norms = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    x = (x / norms.clamp_min(EPSILON)).to(matrices.dtype)  # so no singular value is above 1
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first
        )
    return x.mT if tall else x


def update_scale(shape: tuple[int, int]) -> float:
    """Factor of an orthogonal matrix of this shape that gives it AdamW's root mean square."""
    return ADAMW_RMS * math.sqrt(max(shape))


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for hidden matrices, an AdamW for all other weights, as one optimizer.

    Args:
        hidden: weight -> number of matrices in it, one after the other in memory.
        rest: optimizer of the other weights; None for none.
        rate_factor: rate of the matrices as a multiple of the rest's (`set_learning_rate`).
        dtype: of the orthogonalisation and of what ranks send each other.
    """

    def __init__(
        self,
        hidden: Mapping[nn.Parameter, int],
        rest: torch.optim.AdamW | None,
        *,
        rate: float,
        rate_factor: float,
        weight_decay: float,
        momentum: float,
        steps: int,
        dtype: torch.dtype,
    ) -> None:
        values = {"lr": rate * rate_factor, "rate_factor": rate_factor, "steps": steps}
        values |= {"weight_decay": weight_decay, "momentum": momentum}
        super().__init__([{"params": list(hidden)}], values)
        for weight in hidden:
            self.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "momentum": torch.zeros_like(weight, memory_format=torch.preserve_format),
            }
        self._dtype = dtype
        self._numbers = list(hidden.values())
        self._exchanges: dict[tuple[int, ...], tuple[list[Stack], Exchange]] = {}
        self._rest = rest
        if rest is not None:  # one list of groups and one state, of which it keeps its part
            self.param_groups += rest.param_groups
            self.state.update(rest.state)
            rest.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; called by all ranks together."""
        assert closure is None
        if self._rest is not None:
            self._rest.step()
        group = self.param_groups[0]
        weights: list[nn.Parameter] = group["params"]
        found = {i: weight.grad for i, weight in enumerate(weights) if weight.grad is not None}
        chosen = tuple(found)
        if not chosen:
            return
        stacks, exchange = self._exchange(weights, chosen)
        local = [_flat(weights[i]) for i in chosen]
        gradients = [_flat(gradient) for gradient in found.values()]
        means = [_flat(self.state[weights[i]]["momentum"]) for i in chosen]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        torch._foreach_mul_(local, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_([self.state[weights[i]]["step"] for i in chosen], 1)

        def read(piece: Piece) -> Tensor:
            part = slice(piece.start, piece.stop)
            ahead = gradients[piece.stack][part].lerp(means[piece.stack][part], group["momentum"])
            return ahead.to(self._dtype)

        def write(piece: Piece, update: Tensor) -> None:
            scale = update_scale(stacks[piece.stack].matrix_shape)
            local[piece.stack][piece.start : piece.stop].add_(update, alpha=-group["lr"] * scale)

        exchange.run(
            read,
            lambda matrices: orthogonalize_all(matrices, group["steps"]),
            write,
            empty=torch.empty(0, dtype=self._dtype, device=local[0].device),
        )

    def _exchange(
        self, weights: list[nn.Parameter], chosen: tuple[int, ...]
    ) -> tuple[list[Stack], Exchange]:
        """The exchange of these weights, which are the same ones in almost every step."""
        if chosen not in self._exchanges:
            stacks = [Stack(shape=tuple(weights[i].shape), number=self._numbers[i]) for i in chosen]
            rank, width, group = _place(weights[chosen[0]])
            self._exchanges[chosen] = (
                stacks,
                Exchange(stacks, rank=rank, width=width, group=group),
            )
            for i, stack in zip(chosen, stacks, strict=True):
                low, high = stack.shard(rank, width)
                assert _flat(weights[i]).numel() == high - low, "FSDP2 shards rows otherwise"
        return self._exchanges[chosen]


def orthogonalize_all(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """`orthogonalize` for matrices of any shapes, those of one shape together."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(index)
    made: dict[int, Tensor] = {}
    for indices in by_shape.values():
        found = orthogonalize(torch.stack([matrices[i] for i in indices]), steps)
        made |= zip(indices, found.unbind(), strict=True)
    return [made[index] for index in range(len(matrices))]


def _flat(tensor: Tensor) -> Tensor:
    """This rank's elements, as a view of one axis."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
    return local.view(-1)


def _place(weight: Tensor) -> tuple[int, int, Any]:
    """Rank, number and group of the ranks that share one copy of a weight."""
    if not isinstance(weight, DTensor):
        return 0, 1, None
    [axis] = [i for i, place in enumerate(weight.placements) if place == Shard(0)]
    mesh = weight.device_mesh
    width = mesh.size(axis)
    return mesh.get_local_rank(axis), width, mesh.get_group(axis) if width > 1 else None
