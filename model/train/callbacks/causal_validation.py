"""The loss that generation will meet, for routings whose parallel loss is too good.

    parallel pass     t0 t1 t2 t3 ─▶ every target at once; `sequence` routing saw t2, t3 at t1
    prefix            t0 ─▶ t1     t0 t1 ─▶ t2     t0 t1 t2 ─▶ t3

One forward pass a target is dear, so only NUM_TARGETS targets, evenly spread over the row, of at
most NUM_SAMPLES held-out samples are looked at: the same ones at every validation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError
from model.config import SteelConfig
from model.data import PackedDataset
from model.data.dataset import IGNORED
from model.train.distributed.step_outcome import mean_loss
from model.train.loss import ModelWithLoss, document_arguments
from model.train.train_step import TrainStep

NUM_TARGETS = 32
"""Targets of a sample; the passes cost as much as so many half rows."""

NUM_SAMPLES = 64
"""Held-out samples, over all ranks."""


def leaks(model_with_loss: ModelWithLoss) -> bool:
    """Return True when the model's parallel loss is not the loss of a language model."""
    config = model_with_loss.model.config
    return isinstance(config, SteelConfig) and config.leaks


def check_measurable(model_with_loss: ModelWithLoss, num_validation: int) -> None:
    """Raise ConfigError where a leaking model would be trained with its parallel loss alone."""
    if leaks(model_with_loss) and not num_validation:
        raise ConfigError(
            f"pretrain: model.routing = {model_with_loss.model.config.routing!r} leaks, so its "
            "training loss says nothing, and the packed data hold out no block for "
            "validation/causal_loss: pack them with pack.validation_fraction (for example 0.01)"
        )


def causal_loss(metrics: Mapping[str, float]) -> float:
    """By what a validation is judged: the prefix loss where there is one."""
    return metrics.get("validation/causal_loss", metrics["validation/loss"])


@torch.no_grad()
def causal_losses(
    model_with_loss: ModelWithLoss,
    input_ids: Tensor,
    labels: Tensor,
    position_ids: Tensor | None = None,
    num_targets: int = NUM_TARGETS,
    beat: Callable[[], Any] = lambda: None,
) -> Tensor:
    """Each sample's losses of targets predicted from their prefix alone: sum and number [B, 2].

    input_ids, labels [B, L], shifted already; position_ids [B, L] part documents. Targets: those at
    num_targets places at most, the first and the last among them, where a label is not IGNORED.
    Sums are nats, float64. beat: called before each pass.
    """
    length = input_ids.shape[1]
    ends = torch.linspace(1, length, min(num_targets, length)).round().int().tolist()
    total = torch.zeros(len(input_ids), 2, dtype=torch.float64, device=input_ids.device)
    # Compiled layers would be compiled again for each length.
    with torch.compiler.set_stance("force_eager"):
        for end in ends:
            beat()
            last_only = torch.full_like(labels[:, :end], IGNORED)
            last_only[:, -1] = labels[:, end - 1]
            positions = None if position_ids is None else position_ids[:, :end]
            losses = model_with_loss(input_ids[:, :end], last_only, positions)
            total += torch.stack([losses.by_sample, losses.num_targets], dim=1)
    return total


def validate_causally(
    train_step: TrainStep,
    dataset: PackedDataset,
    num_samples: int,
    *,
    beat: Callable[[], Any],
    stop: Callable[[], bool],
) -> float | None:
    """Mean prefix loss of held-out samples' targets, nats; None when asked to stop meanwhile.

    Called by all ranks, which make the same number of passes, since FSDP gathers weights in each.
    """
    ranks, settings = train_step.ranks, train_step.settings
    total, size = min(num_samples, NUM_SAMPLES), settings.micro_batch_size
    sums = torch.zeros(2, dtype=torch.float64, device=ranks.device)
    for first in range(0, total, size * ranks.world_size):
        if any(ranks.gather(stop())):
            return None
        mine = first + size * ranks.rank
        rows = range(mine, min(mine + size, total))
        batch = dataset.batch(rows or [0], separate_documents=settings.separate_documents)
        losses = causal_losses(
            train_step.model_with_loss,
            train_step.place(batch["input_ids"]),
            train_step.place(batch["labels"]),
            document_arguments(batch, train_step.place).get("position_ids"),
            beat=beat,
        )
        if rows:
            sums += losses.sum(dim=0)
    loss, _ = mean_loss(ranks.all_reduce_sum(sums).tolist())
    return loss
