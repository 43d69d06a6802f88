"""A method of fine-tuning: its samples, its objective, and what it does before the first step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from model.data import MicroBatch
from model.data.permutation import Ints
from model.train.callbacks.validation import Validation
from model.train.callbacks.watchdog import Watchdog
from model.train.distributed.context import DistributedContext
from model.train.distributed.signals import StopFlag
from model.train.finetune.batches import Document
from model.train.finetune.held_out import HeldOutValidation, validation_samples
from model.train.loss import ModelWithLoss
from model.train.train_step import TrainStep

if TYPE_CHECKING:
    from model.train.finetune.data import FinetuneData, RowLayout, Samples


@dataclass(frozen=True, kw_only=True)
class Start:
    """Things that a method may need before the first step; on every rank."""

    model_with_loss: ModelWithLoss
    """The model with the weights that training starts from, on this rank's device."""
    dtype: torch.dtype
    """Precision of the forward pass."""
    layout: "RowLayout"
    """Division of documents into rows."""
    ranks: DistributedContext
    stop: StopFlag
    """Set when this rank is asked to stop."""
    watchdog: Watchdog | None
    """Wants to hear of progress."""


@dataclass(kw_only=True)
class Method:
    """Samples of a method, and the mean over their targets as its objective; others override."""

    samples: "Samples"
    """Conversations or pairs."""
    documents: Callable[[int], Sequence[Document]]
    """The documents of a sample by its number."""
    documents_of_sample: int = 1
    """Documents of one sample."""

    def held_out(self, fraction: float) -> npt.NDArray[np.bool_]:
        """Samples that are held out for validation, [N]; not all."""
        return validation_samples(self.samples.digests, self.samples.name, fraction)

    def annotate(self, rows: MicroBatch, numbers: Sequence[int]) -> MicroBatch:
        """Add to rows with the documents of these samples what the objective needs."""
        return rows

    def before_training(self, start: Start) -> None:
        """Do what needs the model as it is before the first step; called by all ranks."""

    def train_step(self, **given: Any) -> TrainStep:
        """Make the step of given model, optimizer, settings and ranks."""
        return TrainStep(**given)

    def validation(self, interval: int, data: "FinetuneData", numbers: Ints) -> Validation:
        """Make the callback that validates on the samples of these numbers."""
        return HeldOutValidation(interval, lambda: data.micro_batches(numbers), self.samples.names)
