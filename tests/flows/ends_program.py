"""A flow that works for a while, run as `steel run` runs its own: for tests that kill things."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from flows.environment import prepare

prepare()  # before Prefect is imported

# ruff: noqa: E402

from prefect import flow, task
from prefect.runtime import flow_run

from common.errors import StageError, SteelError
from common.processes import RunStopped
from common.redaction import install
from flows.runs.prefect_run import bound_the_end, remembered, run_flow
from flows.runs.session import tracked
from tasks.core.artifacts import run_logger
from tasks.core.progress import ProgressReporter


@task
def step(number: int) -> int:
    run_logger().info("step %d", number)
    return number


@flow(name="ends")
@remembered
def ends(store: str, fail: bool) -> dict[str, Any]:
    """Do tasks, log lines and progress until the file `finish` appears in the store."""
    folder = Path(store)
    with tracked("ends", folder, {"x": 1}) as context:
        track = context.tracker.stage(
            "sft", label="", key="k", folder=folder, config={}, inputs={}, trains=True
        )
        with track:
            reporter = ProgressReporter("ends", run_logger())
            reporter.ARTIFACT_SECONDS = 1.0
            (folder / "began").write_text(f"{flow_run.id} {os.getpid()}")
            number = 0
            while not (folder / "finish").exists():
                number = step(number + 1)
                reporter.update(number, 1000, "steps")
                time.sleep(0.5)
            if fail:
                raise StageError("the stage has failed")
    return {"steps": number}


def main() -> int:
    install()
    try:
        print("result", run_flow(ends, store=sys.argv[1], fail=sys.argv[2:] == ["fail"]))
    except SteelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RunStopped as stop:
        print(stop.message, file=sys.stderr)
        return 128 + stop.number
    return 0


if __name__ == "__main__":
    code = main()
    bound_the_end(code)
    sys.exit(code)
