"""Supervised fine-tuning: the program that the stage `sft` starts in every rank.

    python -m model.entry.sft JOB.json

Reads an `SftJob`, continues what its scratch folder holds, trains to the end and writes
<output>/model. Exit codes: model/train/run/program.py.
"""

from transformers.utils.logging import disable_progress_bar

from common.child import run_job
from model.entry.launch import run_and_exit
from model.train.finetune.build import sft_method
from model.train.finetune.config import SftJob
from model.train.finetune.program import finetune


def sft(job: SftJob) -> int:
    """Train and publish; returns the exit code. Raises a SteelError."""
    return finetune(job, sft_method)


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    disable_progress_bar()  # a bar in a log file is noise
    return run_job(SftJob, sft, argv)


if __name__ == "__main__":
    run_and_exit(main)
