"""A process that acquires one corpus from a URL, to be killed by a test.

python acquire_program.py FOLDER LOCATION           into a folder
python acquire_program.py STORE LOCATION NUMBER     as this acquisition of a store
"""

import sys
from pathlib import Path

from tasks.acquire import AcquireConfig, acquire
from tests.corpus.sources.acquired import run_in_store
from tests.tasks.running import run_stage

if __name__ == "__main__":
    folder, location, *number = sys.argv[1:]
    config = AcquireConfig(kind="corpora", datasets={"skypile": location})
    if number:
        run_in_store(Path(folder), int(number[0]), config)
    else:
        run_stage(acquire, Path(folder), config)
