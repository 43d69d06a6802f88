"""Keeper of what `make up` has started: nothing of a killed service or run stays.

    at first     what was killed before is repaired (flows/runs/repair.py)
    every 20 s   a service whose first process was killed: what is left of its group is ended
                 (MLflow's server has a second process, which would keep the port)
                 a run whose process and watchdog are gone: the same repair, tried again while
                 its note stays (its server may be away)

                 the worker, when it has ended and Prefect answers: it is started again (it gives
                 up when the server has been away for about a minute)

Servers are started by `make up` alone. It ends with the last service. docs/adr/0075
"""

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.child import python
from common.processes import process_start, still_runs
from common.redaction import install
from flows.environment import ROOT, answers, prepare, running_services
from flows.runs.notes import notes_of_this_machine
from flows.runs.watchdog import LAST_SECONDS

LOOK_SECONDS = 20.0
MOST_LOOKS = 45
"""Most looks between two repairs of one run: a quarter of an hour."""
OWN = "keeper"
"""Its name among the services."""
log = logging.getLogger("steel.keeper")


def end_leftovers(services: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Kill what is left of services whose first process is gone; returns their names."""
    ended = []
    for name, service in services.items():
        # While a group has members, its number is given to no other process.
        if process_start(service["pid"]) is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(service["pid"], signal.SIGKILL)
                ended.append(name)
    return ended


def killed_runs() -> list[str]:
    """Flow runs of this machine whose process is gone, and whose watchdog has not said so."""
    return [flow_run for flow_run, note in notes_of_this_machine() if not still_runs(note)]


@dataclass
class _Tries:
    """Repairs of one killed run, each after twice as many looks as the one before: its server may
    be away for a night, and a run of another server cannot be repaired here at all."""

    looks: int = 0
    pause: int = 1

    def is_due(self) -> bool:
        """True if it is to be tried at this look."""
        self.looks += 1
        if self.looks < self.pause:
            return False
        self.looks, self.pause = 0, min(2 * self.pause, MOST_LOOKS)
        return True


def keep(store: Path) -> None:
    """Repair what was killed before, then look until no service is left."""
    repair_killed(store)
    known: set[str] = set()
    tries: dict[str, _Tries] = {}
    while True:
        time.sleep(LOOK_SECONDS)
        services = running_services()
        for name in end_leftovers(services):
            log.warning("%s was killed; what was left of it is ended. `make up` starts it", name)
        dead_services = {name for name, service in services.items() if not still_runs(service)}
        if "worker" in dead_services and answers(os.environ.get("PREFECT_API_URL", ""), 5):
            _restart_worker()
        elif not services.keys() - dead_services - {OWN}:
            return
        dead = set(killed_runs())
        tries = {flow_run: tries.get(flow_run, _Tries()) for flow_run in dead}
        # Its watchdog would have done it by now.
        if again := {flow_run for flow_run in dead & known if tries[flow_run].is_due()}:
            log.warning("repair what is left of killed runs: %s", ", ".join(sorted(again)))
            repair_killed(store)
        known = dead


def _restart_worker() -> None:
    from flows.services.local import start_worker  # which starts the keeper

    log.warning("the worker has ended; it is started again")
    start_worker(running_services(), dict(os.environ))


def repair_killed(store: Path) -> None:
    """Repair what killed runs and services have left (flows/runs/repair.py)."""
    # A process of its own: what it imports would stay in this one's memory for ever.
    command = python("flows.runs.repair", "--store", store)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=ROOT, timeout=LAST_SECONDS, check=False)


def main() -> int:
    """`python -m flows.services.keeper --store DIR`."""
    install()
    prepare()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    keep(parser.parse_args().store)
    return 0


if __name__ == "__main__":
    sys.exit(main())
