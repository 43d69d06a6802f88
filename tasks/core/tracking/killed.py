"""Processes that runs in MLflow belong to: those that are gone did not finish their runs."""

import os
import socket
from typing import TYPE_CHECKING

from common.processes import process_start
from tasks.core.tracking.client import MODELS, PIPELINES, SPEED, Client

if TYPE_CHECKING:
    from mlflow.entities import Run


def this_process() -> dict[str, str]:
    """Tags that tell which process works in a run."""
    return {"steel.pid": str(os.getpid()), "steel.started": process_start(os.getpid()) or ""}


def end_killed_runs(client: Client, *, dry: bool = False) -> list[str]:
    """Runs whose process on this machine is gone were killed: say so instead of RUNNING.

    Returns their names. dry: nothing is changed.
    """
    names = []
    for name in (PIPELINES, MODELS, SPEED):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            continue
        for run in client.search_runs(
            [experiment.experiment_id],
            f"attributes.status = 'RUNNING' AND tags.`steel.host` = '{socket.gethostname()}'",
        ):
            if is_dead(run):
                names.append(str(run.info.run_name))
                if not dry:
                    client.set_terminated(run.info.run_id, "KILLED")
    return names


def is_dead(run: "Run") -> bool:
    """True if a run is of a process of this machine that is gone."""
    tags = run.data.tags
    pid, began = tags.get("steel.pid", ""), tags.get("steel.started", "")
    if tags.get("steel.host") != socket.gethostname() or not pid.isdigit():
        return False
    # A number alone may have been given to another process since.
    alive = process_start(int(pid))
    return alive is None or bool(began and alive != began)
