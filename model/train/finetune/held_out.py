"""Samples that a fine-tuning holds out of its data, and the loss on them, by set.

A sample is held out by its own digest, so the same one is in every mixture that draws it, in every
order and for every vocabulary; equal samples share a digest, and are held out together. A mixture
therefore never trains on what it is validated with, and losses of two mixtures are comparable where
they share a set.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from model.data import MicroBatch
from model.data.permutation import Ints
from model.train.callbacks.validation import Validation
from model.train.distributed.step_outcome import mean_loss
from model.train.train_step import TrainStep

if TYPE_CHECKING:
    from model.train.trainer import Trainer

MIN_ROWS = 100
"""Samples of a set below which none is held out: one percent of it would be none or one, whose loss
says little, and a small set misses each."""


def held_out(digests: npt.NDArray[np.uint64], sets: Ints, fraction: float) -> npt.NDArray[np.bool_]:
    """Samples [N] that are held out: about `fraction` of each set of MIN_ROWS and more.

    digests, sets: of each sample, [N].
    """
    large = np.bincount(sets) >= MIN_ROWS if len(sets) else np.zeros(0, bool)
    share = _mixed(digests).astype(np.float64) / 2.0**64
    chosen = (share < fraction) & large[sets]
    # A copy in a small set is no other sample.
    return np.isin(digests, digests[chosen])


def validation_samples(
    digests: npt.NDArray[np.uint64], sets: Ints, fraction: float
) -> npt.NDArray[np.bool_]:
    """Samples [N] that a training is validated with: those held out, but never all there are."""
    apart = held_out(digests, sets, fraction)
    return apart & ~apart.all()


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Other bits of the same digests (splitmix64), so that what else was drawn by them, a share of
    a set, say, has nothing to do with this."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class HeldOutValidation(Validation):
    """Validates on held-out samples every `interval` steps and after the last one.

    Args:
        batches: this rank's micro-batches, equally many on each rank.
        sources: names of the sets whose losses are told apart.
    """

    def __init__(
        self, interval: int, batches: Callable[[], Iterable[MicroBatch]], sources: Sequence[str]
    ) -> None:
        super().__init__(interval)
        self.batches, self.sources = batches, sources

    def has_data(self, trainer: "Trainer") -> bool:
        return True

    def measure(self, trainer: "Trainer") -> dict[str, float] | None:
        metrics = validate(
            trainer.train_step,
            self.batches(),
            sources=self.sources,
            beat=lambda: trainer.phase("validation"),
            stop=lambda: trainer.stop.requested,
        )
        if metrics is not None:
            position = trainer.data.position(trainer.progress.batch)
            metrics |= {name: position[name] for name in ("data/tokens",) if name in position}
        return metrics


@torch.no_grad()
def validate(
    train_step: TrainStep,
    batches: Iterable[MicroBatch],
    *,
    sources: Sequence[str],
    beat: Callable[[], Any] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Mean loss over all targets of the batches of all ranks, and by source, and the step's further
    statistics; None when a rank was asked to stop."""
    ranks = train_step.ranks
    totals = train_step.zeros(len(sources))
    statistics = torch.zeros(len(train_step.statistics), dtype=torch.float64, device=ranks.device)
    train_step.model_with_loss.eval()
    try:
        for batch in batches:
            beat()
            if any(ranks.gather(stop())):
                return None
            losses = train_step.forward(batch)
            train_step.add_by_source(totals, batch, losses)
            if losses.statistics is not None:
                statistics += losses.statistics
    finally:
        train_step.model_with_loss.train()
    found = ranks.all_reduce_sum(torch.cat([statistics, totals.flatten()])).tolist()
    of_statistics, sums = found[: len(statistics)], found[len(statistics) :]
    loss, num_targets = mean_loss(sums)
    metrics = {"validation/loss": loss, "validation/targets": float(num_targets)}
    means = {
        name: value / num_targets
        for name, value in zip(train_step.statistics, of_statistics, strict=True)
    }
    for name, value in train_step.measurements(means).items():
        metrics[name.replace("train/", "validation/")] = value
    for name, total, number in zip(sources, sums[0::2], sums[1::2], strict=True):
        if number:
            metrics[f"validation/loss_{name}"] = total / number
    return metrics
