"""`python -m corpus.decontaminate JOB.json`: search texts for benchmark questions (search.py)."""

import signal
import sys
from pathlib import Path

from common.child import ProgressFile, run_job
from common.processes import die_with_parent
from corpus.decontaminate.search import SearchJob, search


def work(job: SearchJob) -> None:
    """Search; dies with its parent."""
    die_with_parent(signal.SIGKILL)
    search(job, ProgressFile(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(run_job(SearchJob, work, sys.argv[1:]))
