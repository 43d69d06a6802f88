"""Loss on held-out samples, split over ranks, given up when the run is asked to stop.

Every rank has this callback. The loss of a step also goes to its checkpoint, of which the ones with
the lowest are kept (`checkpoints.keep_best`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

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

    For routings that leak also the causal loss (model/train/callbacks/causal_validation.py).

    All ranks make the same number of calls. Before each of them they agree whether one was asked to
    stop (`stop`), since a validation may take longer than a stop may; None then.
    beat: called before each batch.
    """
    ranks, size = train_step.ranks, train_step.settings.micro_batch_size
    separate = train_step.settings.separate_documents
    totals = train_step.zeros(len(sources))
    train_step.model_with_loss.eval()
    try:
        for first in range(0, num_samples, size * ranks.world_size):
            beat()
            if any(ranks.gather(stop())):
                return None
            mine = first + size * ranks.rank
            rows = range(mine, min(mine + size, num_samples))
            # FSDP gathers weights in every forward call, so a rank without rows computes some too.
            batch = dataset.batch(rows or [0], separate_documents=separate)
            losses = train_step.forward(batch)
            if rows:
                train_step.add_by_source(totals, batch, losses)
        causal = None
        if leaks(train_step.model_with_loss):
            causal = validate_causally(train_step, dataset, num_samples, beat=beat, stop=stop)
            if causal is None:
                return None
    finally:
        train_step.model_with_loss.train()
    sums = ranks.all_reduce_sum(totals).tolist()
    loss, num_targets = mean_loss([value for pair in sums for value in pair])
    metrics = {"validation/loss": loss, "validation/targets": float(num_targets)}
    for name, (total, number) in zip(sources, sums, strict=True):
        if number:
            metrics[f"validation/loss_{name}"] = total / number
    if causal is not None:
        metrics["validation/causal_loss"] = causal
    return metrics
