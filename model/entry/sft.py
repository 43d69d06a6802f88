"""Supervised fine-tuning with TRL: the program that the stage `sft` starts.

{"messages": [...]} per line ──chat template──▶ ids, labels of the assistant's tokens only
    ──(packing: best fit, decreasing)──▶ SFTTrainer ──▶ <output>/model
"""

from collections.abc import Mapping
from typing import Any

from trl import SFTConfig, SFTTrainer

from model.train.finetune.config import SftJob
from model.train.finetune.encoding import IGNORED
from model.train.finetune.fit import run_entry
from model.train.finetune.ordered import OrderedTraining


class OrderedSFTTrainer(OrderedTraining, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT on prepared rows; its loss is the mean over all targets of a step, on all ranks."""

    def filler(self) -> Mapping[str, Any]:
        row = {"input_ids": [self.data_collator.pad_token_id] * 2, "labels": [IGNORED] * 2}
        return {**row, "seq_lengths": [2]} if self.args.packing else row


def build(job: SftJob, arguments: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """TRL's trainer, given what it shares with other methods (finetune.trainer.Build)."""
    packing = job.settings.packing
    options = SFTConfig(**arguments, packing=packing, packing_strategy="bfd")
    return OrderedSFTTrainer(args=options, **inputs)


if __name__ == "__main__":
    run_entry(SftJob, build)
