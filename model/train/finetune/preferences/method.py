"""DPO as a method of fine-tuning: pairs, what the reference says of them, and the objective."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.data import MicroBatch
from model.data.permutation import Ints
from model.train.callbacks.validation import Validation
from model.train.finetune.config import DpoJob
from model.train.finetune.data import FinetuneData
from model.train.finetune.method import Method, Start
from model.train.finetune.preferences.batches import documents_of, pair_batch
from model.train.finetune.preferences.prepare import PreferencePairs, prepare_pairs
from model.train.finetune.preferences.reference import (
    ReferenceLogProbs,
    ReferenceStore,
    compute_reference,
)
from model.train.finetune.preferences.training import PairStep, PairValidation, target_log_probs

REFERENCE_FOLDER = "reference"
"""Of a job that names no other, in its scratch folder."""


@dataclass(kw_only=True)
class PairMethod(Method):
    """Pairs of answers, and the mean over pairs of the loss of their margin."""

    samples: PreferencePairs
    job: DpoJob
    documents_of_sample: int = 2
    reference: ReferenceLogProbs | None = field(default=None, init=False)
    """Log-probabilities under the model that training starts from; before the first step None."""

    def held_out(self, fraction: float) -> npt.NDArray[np.bool_]:
        """Pairs that were held out before the others were drawn at their ratio."""
        return self.samples.held_out

    def annotate(self, rows: MicroBatch, numbers: Sequence[int]) -> MicroBatch:
        """Add which pairs they are, and what the reference says of their answers."""
        batch = pair_batch(rows, self.samples, numbers)
        assert self.reference is not None
        batch["reference"] = self.reference.of_pairs(numbers)
        return batch

    def before_training(self, start: Start) -> None:
        """Read or compute the reference: the policy as it is now."""
        ranks, model = start.ranks, start.model_with_loss
        place = self.job.reference or str(Path(self.job.scratch) / REFERENCE_FOLDER)
        store = ReferenceStore.of(
            Path(place),
            self.samples,
            model=Path(self.job.model),
            dtype=start.dtype,
            device=ranks.device,
        )

        def progress(done: int, total: int) -> None:
            if start.watchdog is not None:
                start.watchdog.beat("reference", 0)

        @torch.no_grad()
        def log_probs(rows: MicroBatch) -> Tensor:
            return target_log_probs(model, rows, ranks.device)[0]

        model.eval()
        try:
            self.reference = compute_reference(
                store,
                ranks,
                log_probs,
                start.layout,
                progress=progress,
                stop=lambda: start.stop.requested,
            )
        finally:
            model.train()

    def train_step(self, **given: Any) -> PairStep:
        """Make the step on pairs."""
        settings = self.job.settings
        return PairStep(**given, beta=settings.beta, loss=settings.loss)

    def validation(self, interval: int, data: FinetuneData, numbers: Ints) -> Validation:
        """Make the callback that validates on these pairs, by set."""
        of_set = {
            name: numbers[self.samples.name[numbers] == place]
            for place, name in enumerate(self.samples.names)
        }
        there = {name: found for name, found in of_set.items() if len(found)}
        return PairValidation(
            interval, lambda: [data.micro_batches(found) for found in there.values()], list(there)
        )


def dpo_method(job: DpoJob, tokenizer: PreTrainedTokenizerBase) -> PairMethod:
    """Pairs of a job; the mean over the losses of their margins."""
    pairs = prepare_pairs(job, tokenizer)
    return PairMethod(samples=pairs, documents=lambda pair: documents_of(pairs, pair), job=job)
