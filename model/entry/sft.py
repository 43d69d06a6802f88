"""Supervised fine-tuning with TRL: the program that the stage `sft` starts.

{"messages": [...]} per line ──chat template──▶ ids, labels of the assistant's tokens only
    ──(packing: best fit, decreasing)──▶ SFTTrainer ──▶ <output>/model
"""

from typing import Any

from trl import SFTConfig, SFTTrainer

from model.train.finetune.config import SftJob
from model.train.finetune.fit import run_entry


def build(job: SftJob, arguments: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """TRL's trainer, given what it shares with other methods (finetune.trainer.Build)."""
    options = SFTConfig(
        **arguments, assistant_only_loss=True, packing=job.settings.packing, packing_strategy="bfd"
    )
    return SFTTrainer(args=options, **inputs)


if __name__ == "__main__":
    run_entry(SftJob, build)
