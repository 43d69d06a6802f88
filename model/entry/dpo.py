"""Direct preference optimization with TRL: the program that the stage `dpo` starts.

{"prompt", "chosen", "rejected"} per line ──chat template──▶ DPOTrainer ──▶ <output>/model
policy and reference both start from the SFT model; the reference stays as it is
"""

import math
from collections.abc import Mapping
from typing import Any

from trl import DPOConfig, DPOTrainer

from model.train.finetune.config import DpoJob
from model.train.finetune.fit import run_entry
from model.train.finetune.ordered import OrderedTraining
from model.train.finetune.trainer import load_model

MEANS_OF_PAIRS = ("rewards/", "logps/")
"""Beginnings of the names of TRL's measurements that are means over pairs."""


class OrderedDPOTrainer(OrderedTraining, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO on prepared pairs; the loss of a smaller step is the mean over its pairs, too."""

    def filler(self) -> Mapping[str, Any]:
        pad = self.data_collator.pad_token_id
        return {"prompt_ids": [pad, pad], "chosen_ids": [], "rejected_ids": []}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss of a micro-batch, weighted by its share of the pairs of the step."""
        assert not return_outputs, "there are no evaluation rows"
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        order, ranks = self.order, self.accelerator.num_processes
        num_pairs = order.samples_in_step(self.state.global_step)
        if num_pairs == order.global_batch_size:
            return loss
        # TRL takes the mean over a micro-batch, the trainer over micro-batches, DDP over ranks.
        answers = inputs["completion_mask"].sum(dim=1).chunk(2)[0]
        size, num_fillers = len(answers), (answers == 0).sum()
        weight = ranks * order.num_micro_batches(num_pairs, ranks) / num_pairs
        for name, values in self._metrics["train"].items():
            if name.startswith(MEANS_OF_PAIRS):  # 0 for a filler
                values[-1] *= size * weight
        return (loss * size - num_fillers * self.loss_of_filler()) * weight

    def loss_of_filler(self) -> float:
        """Loss of a pair whose two answers are empty: its margin is 0, and so is its gradient."""
        (kind,) = self.loss_types
        beta = float(self.beta)
        return {"sigmoid": math.log(2), "hinge": 1.0, "ipo": (1 / (2 * beta)) ** 2}[kind]


def build(job: DpoJob, arguments: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """TRL's trainer, given what it shares with other methods (finetune.trainer.Build)."""
    options = DPOConfig(**arguments, beta=job.settings.beta, loss_type=[job.settings.loss])
    # The reference is given, because TRL would reload it from disk by a class it doesn't know.
    return OrderedDPOTrainer(args=options, ref_model=load_model(job.model), **inputs)


if __name__ == "__main__":
    run_entry(DpoJob, build)
