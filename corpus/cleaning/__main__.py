"""`python -m corpus.cleaning JOB.json`: clean all sources (common/child.py).

    language model, tokenizer ─▶ operators, partition by partition ─▶ duplicates ─▶ kept documents
                                 └──────── worker processes ───────┘                └─ workers ──┘

The ledger is written last, so its existence means that all outputs are complete.
"""

import shutil
import signal
import sys
from pathlib import Path

from common.child import ProgressFile, Report, run_job
from common.files import complete_file, json_line
from common.processes import die_with_parent
from corpus.cleaning.job import CleanJob
from corpus.cleaning.prepare import prepare


def work(job: CleanJob, report: Report) -> None:
    """Clean every source of the job."""
    die_with_parent(signal.SIGKILL)
    recipes, notes = prepare(job, report)
    # Data-Juicer, which both of these import, reads the environment that is prepared by now.
    if job.executor == "ray":
        from corpus.cleaning.ray.clean import clean_on_ray as run
    else:
        from corpus.cleaning.engine.clean import clean_locally as run
    result = run(job, recipes, report)
    with complete_file(Path(job.ledger)) as file:
        file.write(json_line(result | {"notes": notes | result["notes"]}))
    shutil.rmtree(job.scratch)


if __name__ == "__main__":
    sys.exit(
        run_job(CleanJob, lambda job: work(job, ProgressFile(Path(sys.argv[1]))), sys.argv[1:])
    )
