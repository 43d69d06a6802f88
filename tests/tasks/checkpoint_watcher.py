"""A watcher of checkpoints in a process of its own, to be killed by tests.

python -m tests.tasks.checkpoint_watcher STORE BENCHMARKS
"""

import logging
import sys
from pathlib import Path
from typing import Any

from tasks.checkpoint_scores import CheckpointScoresConfig
from tasks.checkpoint_scores.questions import Questions, read_questions
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.checkpoint_scores.watch import Watcher
from tasks.core.stage import StageResult

KEY = "0123456789abcdef"


def questions_of(run: PretrainingRun, benchmarks: Path, **changes: Any) -> Questions:
    """Two questions a subject of C-Eval and MMLU, and some held-out bytes."""
    config = CheckpointScoresConfig(**{"limit": 2, "bytes_per_source": 400, **changes})
    acquired = {
        name: StageResult(stage="acquire", key="a", folder=benchmarks, manifest={})
        for name in ("ceval", "mmlu")
    }
    return read_questions(config, run, acquired, {}, on_bad_row="fail")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    store, benchmarks = map(Path, sys.argv[1:])
    run = PretrainingRun.find(store, KEY)
    Watcher(run, questions_of(run, benchmarks), store=store)(watch=True, poll_seconds=0.1)
