"""Direct preference optimization with TRL: the program that the stage `dpo` starts.

{"prompt", "chosen", "rejected"} per line ──chat template──▶ DPOTrainer ──▶ <output>/model
policy and reference both start from the SFT model; the reference stays as it is
"""

from typing import Any

from trl import DPOConfig, DPOTrainer

from model.train.finetune.config import DpoJob
from model.train.finetune.fit import run_entry
from model.train.finetune.trainer import load_model


def build(job: DpoJob, arguments: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """TRL's trainer, given what it shares with other methods (finetune.trainer.Build)."""
    options = DPOConfig(**arguments, beta=job.settings.beta, loss_type=[job.settings.loss])
    # The reference is given, because TRL would reload it from disk by a class it doesn't know.
    return DPOTrainer(args=options, ref_model=load_model(job.model), **inputs)


if __name__ == "__main__":
    run_entry(DpoJob, build)
