"""Direct preference optimization: the program that the stage `dpo` starts in every rank.

    python -m model.entry.dpo JOB.json

Reads a `DpoJob`, continues what its scratch folder holds, trains to the end and writes
<output>/model. Policy and reference both start from the job's model; what the reference says is
computed once and kept (model/train/finetune/preferences). Exit codes: model/train/run/program.py.
"""

from transformers.utils.logging import disable_progress_bar

from common.child import run_job
from model.entry.launch import run_and_exit
from model.train.finetune.config import DpoJob
from model.train.finetune.preferences.method import dpo_method
from model.train.finetune.program import finetune


def dpo(job: DpoJob) -> int:
    """Train and publish; returns the exit code. Raises a SteelError."""
    return finetune(job, dpo_method)


def main(argv: list[str]) -> int:
    """Run the job in the JSON file `argv[0]`; returns the exit code."""
    disable_progress_bar()  # a bar in a log file is noise
    return run_job(DpoJob, dpo, argv)


if __name__ == "__main__":
    run_and_exit(main)
