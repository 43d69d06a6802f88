"""What all ranks know after a batch: the one message of a step, and the one wait for the device."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from model.train.health import Verdict
from model.train.train_step import Gradients, TrainStep


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What all ranks know after a batch; equal on each."""

    loss: float
    """Mean over the global batch, nats per token."""
    loss_by_source: dict[str, float]
    grad_norm: float
    """Before clipping."""
    stop: bool
    """Whether any rank was asked to stop."""
    requests: bool
    """Whether a request is to be done before the next step."""
    save_failed: bool
    """Whether a checkpoint could not be written in the background."""
    verdict: Verdict
    """What is to be done with the batch."""

    @property
    def trained(self) -> bool:
        """Whether the batch became a step."""
        return self.verdict.action == "train"


def agree(
    train_step: TrainStep,
    gradients: Gradients,
    *,
    sources: Sequence[str],
    judge: Callable[..., Verdict],
    stop: bool,
    requests: bool,
    save_failed: bool,
) -> StepOutcome:
    """Sum over ranks, in one all-reduce, what they found and what each of them wishes.

    judge: what is to be done with the batch, from its `loss` and `grad_norm`.
    """
    wishes = torch.tensor([stop, requests, save_failed], dtype=torch.float64)
    # One rank's gradients are its share of the sum where weights are sharded, and all of it where
    # there is one process: in both cases the squares add up to the global norm. Where several
    # copies are held, each adds its part of it.
    vector = torch.cat(
        [gradients.squares.view(1), train_step.place(wishes), gradients.totals.flatten()]
    )
    squares, any_stop, any_request, any_failure, *sums = train_step.ranks.sum_(vector).tolist()
    loss = sum(sums[0::2]) / sum(sums[1::2])
    norm = math.sqrt(squares) if squares >= 0 else math.nan
    return StepOutcome(
        loss=loss,
        loss_by_source={
            name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(sources) if sums[2 * i + 1]
        },
        grad_norm=norm,
        stop=any_stop > 0,
        requests=any_request > 0,
        save_failed=any_failure > 0,
        verdict=judge(loss=loss, grad_norm=norm),
    )
