"""Result of a batch over all ranks: the one message of a step, and the one wait for the device."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from common.errors import DataError
from model.train.health import Verdict
from model.train.train_step import Gradients, TrainStep


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """Result of a batch, equal on every rank."""

    loss: float
    """Mean over all targets of the global batch, nats."""
    loss_by_source: dict[str, float]
    """The same over the targets of each source that has one."""
    num_targets: int
    """Labels of the global batch that count: all but the first token of each document."""
    router_loss: float | None
    """Mean load balancing loss of the global batch's micro-batches, unweighted; None where the
    model has none. It is no part of `loss`, and part of the gradient."""
    statistics: dict[str, float]
    """Means over all targets of the global batch, by name (`TrainStep.statistics`)."""
    routing: dict[str, float]
    """Measurements of the routers over all tokens of the global batch; empty where none is
    watched (model/routing_statistics.py)."""
    grad_norm: float
    """Of the gradient of the mean (and the router's loss), before clipping."""
    stop: bool
    """Any rank was asked to stop."""
    requests: bool
    """A request is to be done before the next step."""
    save_failed: bool
    """A checkpoint could not be written in the background."""
    verdict: Verdict
    """Decision about the batch."""

    @property
    def trained(self) -> bool:
        """The batch became a step."""
        return self.verdict.action == "train"


def reduce_over_ranks(
    train_step: TrainStep,
    gradients: Gradients,
    *,
    sources: Sequence[str],
    judge: Callable[..., Verdict],
    stop: bool,
    requests: bool,
    save_failed: bool,
) -> StepOutcome:
    """Sum losses, gradient norms and flags over ranks, in one all-reduce, and judge the batch.

    judge: decides about the batch from its `loss` and `grad_norm`.

    Raises DataError, on all ranks alike, for a batch without a target.
    """
    flags = torch.tensor([stop, requests, save_failed], dtype=torch.float64)
    # One rank's gradients are its share of the sum where weights are sharded, and all of it where
    # there is one process: in both cases the squares add up to the global norm. Where several
    # copies are held, each adds its part of it.
    parts = [gradients.squares.view(1), train_step.place(flags), gradients.router]
    parts += [gradients.statistics, gradients.totals.flatten()]
    vector = torch.cat([*parts, gradients.routing.flatten()])
    reduced = train_step.ranks.all_reduce_sum(vector).cpu()
    summed, routed = reduced.tensor_split([len(reduced) - gradients.routing.numel()])
    squares, any_stop, any_request, any_failure, router, num_routed, *rest = summed.tolist()
    names = train_step.statistics
    statistics, sums = rest[: len(names)], rest[len(names) :]
    loss, num_targets = mean_loss(sums)
    # Gradients are of a sum divided by all tokens: see train_step.py.
    norm = math.sqrt(squares) if squares >= 0 else math.nan
    norm *= gradients.num_tokens / num_targets
    return StepOutcome(
        loss=loss,
        num_targets=num_targets,
        router_loss=router / num_routed if num_routed else None,
        loss_by_source={
            name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(sources) if sums[2 * i + 1]
        },
        statistics={
            name: value / num_targets for name, value in zip(names, statistics, strict=True)
        },
        routing={}
        if train_step.routing is None
        else train_step.routing.figures(routed.view_as(gradients.routing)),
        grad_norm=norm,
        stop=any_stop > 0,
        requests=any_request > 0,
        save_failed=any_failure > 0,
        verdict=judge(loss=loss, grad_norm=norm),
    )


def mean_loss(totals: Sequence[float]) -> tuple[float, int]:
    """Mean over targets, and their number, of flattened totals by source (sum, targets, …).

    Raises DataError where there is no target: each label is the first token of a document.
    """
    num_targets = round(sum(totals[1::2]))
    if not num_targets:
        raise DataError(
            "no token of a whole batch is a target: each begins a document, which nothing "
            "predicts. Look at the packed documents (are they empty?), or choose a longer "
            "sequence_length or a larger global_batch_size"
        )
    return sum(totals[0::2]) / num_targets, num_targets
