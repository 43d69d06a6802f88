"""A child that waits or fails as its job says: for tests of several children at once."""

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from common.child import run_job
from common.errors import DataError
from common.processes import die_with_parent


@dataclass(frozen=True, kw_only=True)
class Job:
    """One child's work."""

    folder: str
    name: str
    waits_for: str = ""
    """File that ends the wait; empty: no wait."""
    fails: bool = False


def work(job: Job) -> None:
    folder = Path(job.folder)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    try:
        (folder / f"{job.name}.began").write_text(f"{os.getpid()} {devices}")
        logging.getLogger("steel").info("%s works", job.name)
        while job.waits_for and not (folder / job.waits_for).exists():
            time.sleep(0.02)
    finally:
        (folder / f"{job.name}.saved").touch()
    if job.fails:
        raise DataError(f"{job.name} has no rows")
    (folder / f"{job.name}.done").touch()


def stop(number: int, frame: FrameType | None) -> NoReturn:
    # Asked by its parent, and by the kernel when that is gone: the second must not end the saving.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    die_with_parent(signal.SIGTERM)
    sys.exit(run_job(Job, work, sys.argv[1:]))
