"""A process that acquires one corpus from a URL, to be killed by a test."""

import sys
from pathlib import Path

from tasks.acquire import AcquireConfig, acquire
from tests.tasks.running import run_stage

if __name__ == "__main__":
    folder, location = sys.argv[1:]
    run_stage(acquire, Path(folder), AcquireConfig(kind="corpora", datasets={"skypile": location}))
