"""Export: a checkpoint of a pretraining as a Transformers folder, on the CPU, at low priority.

    python -m model.entry.export CHECKPOINT OUT

Exit codes: 0 done; 2 the checkpoint is incomplete, damaged or another trainer's; 1 anything else.
The training that started it ends it by its own death.
"""

import logging
import os
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from common.errors import SteelError
from common.processes import die_with_parent
from model.train.checkpoint.export import export

log = logging.getLogger("model.entry.export")

NICENESS = 19
"""The lowest priority there is: whatever training needs of the processor comes first."""


def main(argv: list[str]) -> int:
    """Export `argv = [checkpoint, out]`; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.captureWarnings(True)
    disable_progress_bar()
    if len(argv) != 2:
        log.error("usage: python -m model.entry.export CHECKPOINT OUT")
        return 2
    die_with_parent()
    os.nice(NICENESS)
    try:
        export(Path(argv[0]), Path(argv[1]))
    except SteelError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
