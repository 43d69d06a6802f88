"""Loss on held-out samples, split over ranks, given up when the run is asked to stop.

Every rank has this callback. The loss of a step also goes to its checkpoint, of which the ones with
the lowest are kept (`checkpoints.keep_best`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.data import PackedDataset
from model.train.callbacks.callback import Callback
from model.train.callbacks.causal_validation import causal_loss, leaks, validate_causally
from model.train.distributed.step_outcome import mean_loss
from model.train.optim.schedule import is_multiple
from model.train.train_step import TrainStep
from model.train.training_data import TrainingData

if TYPE_CHECKING:
    from model.train.trainer import Trainer


class Validation(Callback):
    """Validates every `interval` steps (0 = never) and after the last one."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.last_step = 0
        """Step of the last validation that was completed; 0 = none was."""

    def state(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state(self, state: Mapping[str, Any], *, rollback: bool) -> None:
        self.last_step = state.get("last_step", 0)

    def before_checkpoint(self, trainer: "Trainer") -> None:
        step = trainer.progress.step
        due = trainer.at_end or is_multiple(step, self.interval)
        # A run that was stopped before this validation resumes with it.
        if due and step not in (0, self.last_step) and self.has_data(trainer):
            self.validate(trainer, step)

    def has_data(self, trainer: "Trainer") -> bool:
        """True if something is held out."""
        assert isinstance(trainer.data, TrainingData)
        return trainer.data.num_validation > 0

    def validate(self, trainer: "Trainer", step: int) -> None:
        """Measure the loss after `step` steps. Raises Stopped when asked to stop meanwhile."""
        started = time.perf_counter()
        metrics = self.measure(trainer)
        if metrics is None:
            trainer.stop_with_checkpoint()
        metrics["perf/validation_seconds"] = time.perf_counter() - started
        trainer.log(step, metrics)
        trainer.validation_loss = causal_loss(metrics)
        self.last_step = step

    def measure(self, trainer: "Trainer") -> dict[str, float] | None:
        """Losses on what is held out; None when asked to stop meanwhile."""
        data = trainer.data
        assert isinstance(data, TrainingData)
        return validate(
            trainer.train_step,
            data.validation,
            num_samples=data.num_validation,
            sources=data.sources,
            beat=lambda: trainer.phase("validation"),
            stop=lambda: trainer.stop.requested,
        )


@torch.no_grad()
def validate(
    train_step: TrainStep,
    dataset: PackedDataset,
    *,
    num_samples: int,
    sources: Sequence[str],
    beat: Callable[[], Any],
    stop: Callable[[], bool],
) -> dict[str, float] | None:
    """Mean loss over all targets of samples [0, num_samples), in nats, and by source.

    For routings that leak also the causal loss (model/train/callbacks/causal_validation.py). Where
    routers are watched, what they gave; where their weights may be replaced, the loss with the mean
    of each layer's over the same samples, which takes as long again.

    All ranks make the same number of calls. Before each of them they agree whether one was asked to
    stop (`stop`), since a validation may take longer than a stop may; None then.
    beat: called before each batch.
    """
    routing = train_step.routing
    once = partial(_one_pass, train_step, dataset, num_samples, len(sources), beat, stop)
    causal = replaced = None
    train_step.model_with_loss.eval()
    try:
        found = once()
        if found is None:
            return None
        if leaks(train_step.model_with_loss):
            causal = validate_causally(train_step, dataset, num_samples, beat=beat, stop=stop)
            if causal is None:
                return None
        sums, noted = found
        if routing is not None and routing.replaceable:
            with routing.replaced(noted):
                replaced = once()
            if replaced is None:
                return None
    finally:
        train_step.model_with_loss.train()
    loss, num_targets = mean_loss(sums)
    metrics = {"validation/loss": loss, "validation/targets": float(num_targets)}
    for name, total, number in zip(sources, sums[::2], sums[1::2], strict=True):
        if number:
            metrics[f"validation/loss_{name}"] = total / number
    if causal is not None:
        metrics["validation/causal_loss"] = causal
    if routing is not None:
        metrics |= routing.figures_by_layer(noted.cpu())
    if replaced is not None:
        metrics["validation/loss_mean_routing"], _ = mean_loss(replaced[0])
        metrics["routing/effect"] = metrics["validation/loss_mean_routing"] - loss
    return metrics


def _one_pass(
    train_step: TrainStep,
    dataset: PackedDataset,
    num_samples: int,
    num_sources: int,
    beat: Callable[[], Any],
    stop: Callable[[], bool],
) -> tuple[list[float], Tensor] | None:
    """Sum of losses and number of targets, source by source, and what the routers gave, float64
    [layers, n + 2], all over the samples of all ranks; None when asked to stop."""
    ranks, size = train_step.ranks, train_step.settings.micro_batch_size
    separate, routing = train_step.settings.separate_documents, train_step.routing
    totals = train_step.zeros(num_sources)
    noted = totals.new_zeros(0) if routing is None else torch.zeros_like(routing.sums())
    for first in range(0, num_samples, size * ranks.world_size):
        beat()
        if any(ranks.gather(stop())):
            return None
        mine = first + size * ranks.rank
        rows = range(mine, min(mine + size, num_samples))
        # FSDP gathers weights in every forward call, so a rank without rows computes some too.
        batch = dataset.batch(rows or [0], separate_documents=separate)
        if routing is not None:
            routing.start()
        losses = train_step.forward(batch)
        if rows:
            train_step.add_by_source(totals, batch, losses)
        if rows and routing is not None:
            noted += routing.sums()
    summed = ranks.all_reduce_sum(torch.cat([totals.flatten(), noted.flatten()]))
    losses_and_targets: list[float] = summed[: totals.numel()].tolist()
    return losses_and_targets, summed[totals.numel() :].view_as(noted)
