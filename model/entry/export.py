"""Export: a checkpoint of a pretraining as a Transformers folder, on the CPU, at low priority.

    python -m model.entry.export JOB.json       an ExportJob

Exit codes: 0 done; 2 the checkpoint is incomplete, damaged or another trainer's; 1 anything else.
The training that started it ends it by its own death.
"""

import os
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from common.child import run_job
from common.processes import NICENESS, die_with_parent
from model.export.folder import export_model
from model.train.checkpoint.export import ExportJob


def run(job: ExportJob) -> None:
    """Export in this process."""
    die_with_parent()
    disable_progress_bar()
    os.nice(NICENESS)
    out = Path(job.out).resolve()
    checkpoint = Path(job.checkpoint).resolve()
    # Inside a folder that is gone, for its session was replaced, nothing can be made anew.
    os.chdir(out.parent)
    export_model(checkpoint, Path(out.name))


if __name__ == "__main__":
    sys.exit(run_job(ExportJob, run, sys.argv[1:]))
