"""Loss on held-out samples, split over ranks, given up when the run is asked to stop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from model.data import PackedDataset
from model.train.causal_validation import leaks, validate_causally
from model.train.train_step import TrainStep


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
    """Mean loss over samples [0, num_samples), in nats per token, and by source.

    For routings that leak also the loss of prefixes (model/train/causal_validation.py).

    All ranks make the same number of calls. Before each of them they agree whether one was asked to
    stop (`stop`), since a validation may take longer than the grace that a stop has; None then.
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
            _, per_sample = train_step.forward(batch)
            if rows:
                train_step.add_by_source(totals, batch["source"], per_sample)
        by_prefix = None
        if leaks(train_step.model_with_loss):
            by_prefix = validate_causally(train_step, dataset, num_samples, beat=beat, stop=stop)
            if by_prefix is None:
                return None
    finally:
        train_step.model_with_loss.train()
    sums = ranks.sum_(totals).tolist()
    metrics = {"validation/loss": sum(s for s, _ in sums) / sum(n for _, n in sums)}
    for name, (loss, number) in zip(sources, sums, strict=True):
        if number:
            metrics[f"validation/loss_{name}"] = loss / number
    if by_prefix is not None:
        metrics["validation/causal_loss"] = by_prefix
    return metrics
