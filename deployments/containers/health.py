"""Health of a container, by what its first process is.

    prefect server start …       its API answers
    mlflow server …              its pages answer
    flows.services.worker …      Prefect's worker answers at its own port (`--with-healthcheck`),
                                 while it asks the server for runs
    anything else (a pipeline)   healthy while it runs

Exit code 0 for healthy, 1 otherwise.
"""

import sys
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

ADDRESSES = (
    (("prefect", "server"), "http://127.0.0.1:4200/api/health"),
    (("mlflow", "server"), "http://127.0.0.1:5000/health"),
    (("-m", "flows.services.worker"), "http://127.0.0.1:8080/health"),
)
"""Words of a command line -> where it answers. Ports inside a container are nobody else's."""
SECONDS = 10.0


def address(command: Sequence[str]) -> str | None:
    """Address at which the program of a command line answers; None for one that is no service."""
    names = [word.rpartition("/")[2] for word in command]
    for (program, kind), where in ADDRESSES:
        if (program, kind) in pairwise(names):
            return where
    return None


def main() -> int:
    """Ask it. Returns the exit code."""
    # tini is the first process, and its arguments are the command that was asked for.
    command = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    where = address(command)
    if where is None:
        return 0
    try:
        with urllib.request.urlopen(where, timeout=SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"{where}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
