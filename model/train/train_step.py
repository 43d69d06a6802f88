"""One batch through the model: micro-batches to gradients, gradients to an update.

B = samples in a micro-batch, L = sequence length, S = sources.

The gradient of a step is that of the mean over all targets of its batch. How many there are is
known only when all ranks have been asked, so the backward pass divides by the number of tokens,
which is the same everywhere, and the update multiplies by tokens / targets (docs/adr/0027). Where
rows differ in length, the data say by what to divide (`StepData.num_tokens`).

Another objective overrides `forward`: its sums, and the number of what they are sums over.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from model.data import MicroBatch
from model.data.dataset import IGNORED
from model.routing_statistics import RoutingStatistics
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext, num_copies, synchronise_gradients
from model.train.loss import Losses, ModelWithLoss, document_arguments
from model.train.optim.gradients import local_gradients, scale_gradients, sum_of_squares
from model.train.optim.optimizer import set_learning_rate

RANDOM_RULE = "blake2b(seed/batch/micro-batch/rank)"
"""Seed of random numbers (dropout): the position, so that no generator state is saved."""


def use_deterministic_algorithms() -> None:
    """Let the same operations on the same device give the same bits from here on.

    Call it before the first use of a GPU: cuBLAS reads its variable when it starts. torch raises
    RuntimeError, naming it, for an operation that has no such implementation; a warning instead
    would leave its flash attention as it is.
    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # read by Transformers for flash-attn
    torch.use_deterministic_algorithms(True)
    # Filling all fresh memory with NaN would cost a write of every activation; what reads memory
    # that nothing wrote is found by the tests of the kernels instead.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients and losses of a batch on this rank."""

    parts: list[Tensor]
    """This rank's part of every gradient of (sum of losses / tokens of the global batch)."""
    squares: Tensor
    """Sum of their squares, float64 scalar, to be summed over ranks."""
    totals: Tensor
    """Float64 [S, 2]: sum of the losses of this rank's targets, and their number, by source."""
    num_tokens: int
    """Tokens of the global batch, all ranks together: those that are no target included."""
    router: Tensor
    """Float64 [2]: sum of this rank's micro-batches' router losses, and their number; zeros where
    the model has no such loss."""
    statistics: Tensor
    """Float64 [K]: sums of `TrainStep.statistics` over this rank's targets."""
    routing: Tensor
    """Float64 [layers, n + 2]: sums over this rank's tokens (model/routing_statistics.py); [0]
    where no router is watched."""
    losses: list[Tensor]
    """Summed losses [B] of each micro-batch, or of each target [B, L] where rows pack samples."""
    samples: list[Tensor]
    """Global sample numbers of the same."""

    def not_finite(self) -> list[int]:
        """This rank's samples whose loss is infinite or not a number. Waits for the device."""
        found = [
            int(sample)
            for loss, ids in zip(self.losses, self.samples, strict=True)
            for sample in ids[~torch.isfinite(loss.cpu())].tolist()
        ]
        return list(dict.fromkeys(found))


@dataclass(kw_only=True)
class TrainStep:
    """The model and its optimizer on this rank."""

    model_with_loss: ModelWithLoss
    optimizer: torch.optim.Optimizer
    settings: PretrainSettings
    ranks: DistributedContext
    routing: RoutingStatistics | None = None
    """The model's routers, where they are watched."""
    on_micro_batch: Callable[[], Any] = field(default=lambda: None)
    """Called before each micro-batch: a sign of progress."""
    statistics: ClassVar[tuple[str, ...]] = ()
    """Names of the sums in `Losses.statistics`, of which `measurements` are made."""

    def gradients(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        batch: int,
        num_sources: int,
        num_tokens: int | None = None,
    ) -> Gradients:
        """Run forward and backward; waits for nothing on the device.

        num_tokens: what to divide by, the same on every rank; None: the tokens of this rank, which
        are as many as the others'.
        """
        totals = self.zeros(num_sources)
        statistics = torch.zeros(
            len(self.statistics), dtype=torch.float64, device=self.ranks.device
        )
        losses: list[Tensor] = []
        if self.routing is not None:
            self.routing.start()
        router = torch.zeros(2, dtype=torch.float64, device=self.ranks.device)
        if num_tokens is None:
            num_tokens = sum(micro_batch["labels"].numel() for micro_batch in micro_batches)
        router_share = self._router_share(micro_batches, num_tokens)
        for number, micro_batch in enumerate(micro_batches):
            self.on_micro_batch()
            synchronise_gradients(
                self.model_with_loss,
                last=number == len(micro_batches) - 1,
                free_weights=self.settings.parallel.reshard_after_forward,
            )
            self._seed(batch, number)
            found = self.forward(micro_batch)
            objective = found.total / num_tokens
            if found.router is not None:
                objective = objective + router_share * found.router
                router += torch.stack([found.router.detach().double(), router.new_ones(())])
            objective.backward()  # type: ignore[no-untyped-call]
            self.add_by_source(totals, micro_batch, found)
            if found.statistics is not None:
                statistics += found.statistics
            losses.append(found.by_sample)
            if micro_batch["samples"].ndim == 2 and found.by_token is not None:
                losses[-1] = found.by_token.detach()
        parts = local_gradients(self.model_with_loss.parameters())
        return Gradients(
            parts=parts,
            squares=sum_of_squares(parts) / num_copies(self.model_with_loss),
            totals=totals,
            num_tokens=num_tokens * self.ranks.world_size,
            router=router,
            statistics=statistics,
            routing=totals.new_zeros(0) if self.routing is None else self.routing.sums(),
            losses=losses,
            samples=[micro_batch["samples"] for micro_batch in micro_batches],
        )

    def forward(self, micro_batch: MicroBatch) -> Losses:
        """Run the model; sums of losses, and the targets that they are sums over."""
        found: Losses = self.model_with_loss(
            self.place(micro_batch["input_ids"]),
            self.place(micro_batch["labels"]),
            **document_arguments(micro_batch, self.place),
        )
        return found

    def targets_in(self, micro_batch: MicroBatch) -> int:
        """Number of what a micro-batch's sums are sums over, as in the `Losses` of `forward`."""
        return int((micro_batch["labels"] != IGNORED).sum())

    def measurements(self, statistics: Mapping[str, float]) -> dict[str, float]:
        """Measurements of a step by their full names, from means over its targets by name."""
        return {f"train/{name}": value for name, value in statistics.items()}

    def _router_share(self, micro_batches: Sequence[MicroBatch], num_tokens: int) -> float:
        """Factor of a micro-batch's router loss in a sum that is divided by all tokens.

        Gradients are multiplied by tokens / targets before the update; the router's loss is the
        mean over micro-batches, however many of their tokens are targets, so it is divided by that
        first. All ranks exchange their numbers of targets, where there is such a loss.
        """
        weight = self.model_with_loss.router_weight
        if not weight:
            return 0.0
        here = sum(map(self.targets_in, micro_batches))
        num_targets: int = sum(self.ranks.gather(here))
        return weight / len(micro_batches) * num_targets / (num_tokens * self.ranks.world_size)

    def update(self, gradients: Gradients, *, num_targets: int, norm: float, rate: float) -> None:
        """Clip to the settings' norm and step the optimizer at this rate; uses up the gradients.

        num_targets: of the global batch, at least 1. norm: of the gradient of the mean over them.
        """
        set_learning_rate(self.optimizer, rate)
        scale = gradients.num_tokens / num_targets
        scale_gradients(gradients.parts, scale, norm=norm, clip=self.settings.max_grad_norm)
        self.optimizer.step()
        self.drop()

    def drop(self) -> None:
        """Forget the gradients; weights and optimizer state stay as they are."""
        self.optimizer.zero_grad(set_to_none=True)

    def zeros(self, num_sources: int) -> Tensor:
        """Return totals by source to add to, float64 [S, 2]: sum of losses, targets."""
        return torch.zeros(num_sources, 2, dtype=torch.float64, device=self.ranks.device)

    def add_by_source(self, totals: Tensor, micro_batch: MicroBatch, losses: Losses) -> None:
        """Add the losses of a micro-batch, whose samples or tokens have sources, to totals."""
        source, values, counts = micro_batch["source"], losses.by_sample, losses.num_targets
        if source.ndim == 2:
            assert losses.by_token is not None
            source, values = source.flatten(), losses.by_token.detach().flatten()
            counts = self.place(micro_batch["labels"]).flatten() != IGNORED
        pairs = torch.stack([values.double(), counts.double()], dim=1)
        totals.index_add_(0, self.place(source), pairs)

    def place(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to this rank's device."""
        return tensor.to(self.ranks.device, non_blocking=True)

    def _seed(self, batch: int, micro_batch: int) -> None:
        key = f"{self.settings.seed}/{batch}/{micro_batch}/{self.ranks.rank}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)
