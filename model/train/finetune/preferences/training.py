"""Steps and validation of DPO on the trainer (model/train/trainer.py).

    PairBatch ─▶ policy: log-probability of each target ─┐
                 reference: the same, kept                ├─▶ loss of each pair ─▶ their mean
                                                          └─▶ rewards, margins, accuracy, lengths

A step's loss is the mean over its pairs, whatever the number of ranks and micro-batches.

P = pairs of a micro-batch, N = its targets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from model.data import MicroBatch
from model.train.callbacks.validation import Validation
from model.train.finetune.preferences.batches import PairBatch, sum_by_answer
from model.train.finetune.preferences.objective import (
    FIGURES,
    AnswerScores,
    PreferenceLoss,
    divergence_terms,
    figures_of,
    means_of,
    pair_losses,
)
from model.train.loss import Losses, ModelWithLoss, document_arguments
from model.train.train_step import TrainStep

if TYPE_CHECKING:
    from model.train.trainer import Trainer


def target_log_probs(
    model_with_loss: ModelWithLoss, batch: MicroBatch, device: torch.device
) -> tuple[Tensor, Losses]:
    """Log-probability of each target of a batch, nats, fp32 [N], and what else the model gave.

    Differentiable; the reference and the policy both come from here, so that they are equal to the
    bit where their weights and rows are.
    """

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    found: Losses = model_with_loss(
        place(batch["input_ids"]),
        place(batch["labels"]),
        each_target=True,
        **document_arguments(batch, place),
    )
    assert found.by_token is not None
    return -found.by_token.flatten()[place(batch["target_places"])], found


@dataclass(kw_only=True)
class PairStep(TrainStep):
    """A step on pairs: its loss is a mean over pairs, where that of `TrainStep` is over tokens."""

    statistics: ClassVar[tuple[str, ...]] = FIGURES

    beta: float
    """Strength with which the policy is held to the reference."""
    loss: PreferenceLoss
    """Loss of a pair."""

    def forward(self, micro_batch: MicroBatch) -> Losses:
        """Run the policy on a `PairBatch`; sums over its pairs."""
        batch = cast("PairBatch", micro_batch)
        log_probs, found = target_log_probs(self.model_with_loss, batch, self.ranks.device)
        if not self.targets_in(batch):
            return self._nothing(log_probs, found)
        lengths, reference = self.place(batch["answer_lengths"]), self.place(batch["reference"])
        policy, before = (sum_by_answer(values, lengths) for values in (log_probs, reference))
        scores = AnswerScores(*policy, *before, lengths[0::2], lengths[1::2])
        losses = pair_losses(scores, beta=self.beta, kind=self.loss)
        divergence = divergence_terms(log_probs, reference).sum()
        return Losses(
            total=losses.sum(),
            by_sample=losses.detach(),
            num_targets=torch.ones_like(losses, dtype=torch.int64),
            router=found.router,
            statistics=figures_of(scores, losses, divergence, beta=self.beta),
        )

    def targets_in(self, micro_batch: MicroBatch) -> int:
        """Pairs of a micro-batch."""
        return len(micro_batch["samples"])

    def measurements(self, statistics: Mapping[str, float]) -> dict[str, float]:
        """Rewards, accuracies, lengths and the distance to the reference."""
        return {f"train/{k}": v for k, v in means_of(statistics).items() if k != "loss"}

    def _nothing(self, log_probs: Tensor, found: Losses) -> Losses:
        """Sums over no pair: of a rank that has none, while the others need its weights."""
        none = log_probs.new_zeros(0)
        statistics = torch.zeros(len(FIGURES), dtype=torch.float64, device=log_probs.device)
        return Losses(log_probs.sum() * 0, none, none.long(), found.router, statistics=statistics)


class PairValidation(Validation):
    """Loss, accuracy and margins on the pairs that are held out, in all and by set.

    Args:
        interval: steps between two validations.
        batches: this rank's micro-batches of each set, equally many on each rank.
        names: names of these sets.
    """

    def __init__(
        self,
        interval: int,
        batches: Callable[[], Iterable[Iterable[MicroBatch]]],
        names: Sequence[str],
    ) -> None:
        super().__init__(interval)
        self.batches, self.names = batches, names

    def has_data(self, trainer: "Trainer") -> bool:
        """True: it is made only where pairs are held out."""
        return True

    def measure(self, trainer: "Trainer") -> dict[str, float] | None:
        """Measurements; None when asked to stop meanwhile."""
        step = trainer.train_step
        assert isinstance(step, PairStep)
        metrics = validate_pairs(
            step,
            self.batches(),
            self.names,
            beat=lambda: trainer.phase("validation"),
            stop=lambda: trainer.stop.requested,
        )
        if metrics is not None:
            position = trainer.data.position(trainer.progress.batch)
            metrics["data/tokens"] = position["data/tokens"]
        return metrics


@torch.no_grad()
def validate_pairs(
    step: PairStep,
    batches: Iterable[Iterable[MicroBatch]],
    names: Sequence[str],
    *,
    beat: Callable[[], Any] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Measurements on the batches of each set, named validation/…; None when asked to stop.

    All ranks make the same number of calls. beat: called before each of them.
    """
    ranks = step.ranks
    sums = torch.zeros(len(names), len(FIGURES), dtype=torch.float64, device=ranks.device)
    step.model_with_loss.eval()
    try:
        for of_set, its_sums in zip(batches, sums, strict=True):
            for batch in of_set:
                beat()
                if any(ranks.gather(stop())):
                    return None
                found = step.forward(batch).statistics
                assert found is not None
                its_sums += found
    finally:
        step.model_with_loss.train()
    by_set = [dict(zip(FIGURES, row, strict=True)) for row in ranks.all_reduce_sum(sums).tolist()]
    everything = {name: sum(of_set[name] for of_set in by_set) for name in FIGURES}
    metrics = means_of(everything) | {"pairs": everything["pairs"]}
    for name, sums_of_set in zip(names, by_set, strict=True):
        metrics |= means_of(sums_of_set, suffix=f"_{name}")
    return {f"validation/{name}": value for name, value in metrics.items()}
