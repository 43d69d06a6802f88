"""A run that is cancelled in each of its stages, as Prefect's page does it, without a worker.

One run of the whole pipeline: it is started as Prefect's worker starts it, cancelled in a stage,
started again, cancelled in the next one, and at the end it completes.
"""

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from common.child import python
from common.paths import ROOT
from flows.environment import DEFAULTS, answers, request
from model.train.run.folder import METRICS_FILE
from tasks.core.manifest import BEGUN
from tasks.core.tracking import PIPELINES, default_uri
from tests.flows.whole_run import write_config
from tests.processes import kill_all, started_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

MARK = "TEST_CANCELLED_RUN"
LONGEST = 600.0
STAGES = ("clean", "pack", "pretrain", "sft", "dpo", "evaluate", "contamination")
SHORT = ("contamination",)
"""Stages in which the run gets SIGTERM too, as Prefect's worker sends it."""
TRAININGS = ("pretrain", "sft", "dpo")
LONG = {"pretrain.steps": 400, "pretrain.epochs": 20, "sft.max_steps": 400, "dpo.max_steps": 400}
"""Steps of trainings that are seen while they work."""


def wait_for(condition: Callable[[], Any], seconds: float = LONGEST) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "hangs"
        time.sleep(0.2)
    return value


def answer_of(url: str, body: Any) -> Any:
    """Answer of a server; None from one that has just begun, or whose database is locked."""
    with contextlib.suppress(OSError):
        return request(url, body)
    return None


class Engine:
    """Flow runs of `steel`, each in a process as Prefect's worker makes it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.store = url, folder, folder / "store"
        flow = wait_for(lambda: answer_of(f"{url}/flows/", {"name": "steel"}))["id"]
        entry = {"name": "pipeline", "flow_id": flow, "entrypoint": "flows.steel.pipeline"}
        self.deployment = wait_for(lambda: answer_of(f"{url}/deployments/", entry))["id"]
        self.parameters = {
            "config": str(write_config(folder)),
            "store": str(self.store),
            "overrides": [f"{key}={steps}" for key, steps in LONG.items()],
        }
        self.run_id = ""

    def start(self) -> subprocess.Popen[bytes]:
        body = {"parameters": self.parameters, "state": {"type": "PENDING"}}
        place = f"{self.url}/deployments/{self.deployment}/create_flow_run"
        self.run_id = wait_for(lambda: answer_of(place, body))["id"]
        own = {
            "PREFECT_API_URL": self.url,
            "PREFECT__FLOW_RUN_ID": self.run_id,
            "PREFECT__FLOW_ENTRYPOINT": "flows.steel.pipeline",
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            MARK: str(self.folder),
        }
        with (self.folder / "engine.txt").open("ab") as output:
            return subprocess.Popen(
                python("prefect.engine"),
                cwd=ROOT,
                env={**os.environ, **own},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = request(f"{self.url}/flow_runs/{self.run_id}")["state"]
        return found

    def lines(self) -> list[str]:
        wanted = {"flow_run_id": {"any_": [self.run_id]}}
        found = request(f"{self.url}/logs/filter", {"logs": wanted, "limit": 200})
        return [line["message"] for line in found]

    def tracked(self, wanted: str) -> list[Run]:
        """Runs of the pipelines in MLflow."""
        client = MlflowClient(default_uri(self.store))
        number = client.get_experiment_by_name(PIPELINES).experiment_id
        found: list[Run] = client.search_runs([number], wanted)
        return found

    def works_in(self, stage: str) -> bool:
        """True once the stage has begun to work; a training, when it has made a step."""
        partial = list((self.store / stage).glob("*.partial"))
        if stage not in TRAININGS:
            return any((folder / BEGUN).is_file() for folder in partial)
        return any((folder / METRICS_FILE).is_file() for folder in partial)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("cancelled")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    own = {"PREFECT_HOME": str(folder / "home"), "PREFECT_API_URL": url, MARK: str(folder)}
    with (folder / "server.txt").open("wb") as output:
        server = subprocess.Popen(
            python("prefect", "server", "start", "--host=127.0.0.1", f"--port={port}"),
            env={**DEFAULTS, **os.environ, **own},
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: answers(url, 5))
        yield Engine(url, folder)
    finally:
        kill_all(MARK, str(folder))
        server.wait()


def cancel_in(engine: Engine, stage: str) -> str:
    """Start the run, cancel it while a stage works, check what is left; returns the message."""
    process = engine.start()
    wait_for(lambda: process.poll() is not None or engine.works_in(stage))
    assert process.poll() is None, (engine.folder / "engine.txt").read_text()[-4000:]
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    place = f"{engine.url}/flow_runs/{engine.run_id}/set_state"
    wait_for(lambda: answer_of(place, {"state": cancelling}))
    if stage in SHORT:
        process.terminate()
    began = time.monotonic()
    wait_for(lambda: engine.state()["type"] != "CANCELLING")
    state = engine.state()
    print(f"{stage}: {state['type']}, {time.monotonic() - began:.1f} s: {state['message']}")
    assert state["type"] == "CANCELLED"
    assert re.fullmatch(r"stopped, .+; the same run continues", state["message"])
    assert wait_for(lambda: process.poll() is not None) and process.returncode == 0
    # The run's watchdog alone outlives it, for a while.
    wait_for(lambda: not [p for p in started_with(MARK, str(engine.folder)) if _works(p)])
    lines = engine.lines()
    assert state["message"] in lines
    assert not any("Crash detected" in line or "Traceback" in line for line in lines)
    wanted = {"flow_runs": {"id": {"any_": [engine.run_id]}}}
    tasks = request(f"{engine.url}/task_runs/filter", wanted)
    assert {task["state"]["type"] for task in tasks} <= {"COMPLETED", "CANCELLED"}
    assert {run.info.status for run in engine.tracked("attributes.status = 'RUNNING'")} == set()
    return str(state["message"])


def test_cancelled_in_every_stage_it_says_what_it_kept_and_goes_on(engine: Engine) -> None:
    messages = {stage: cancel_in(engine, stage) for stage in STAGES}
    for stage, message in messages.items():
        assert stage in message, "what is under way"
    for stage in TRAININGS:
        assert re.search(r"saved step [1-9]", messages[stage])
    process = engine.start()
    wait_for(lambda: process.poll() is not None)
    assert engine.state()["type"] == "COMPLETED"
    (parent,) = engine.tracked("tags.`steel.role` = 'pipeline'")
    assert parent.info.status == "FINISHED"
    children = engine.tracked(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.status for run in children} == {"FINISHED"}
    keys = [run.data.tags["steel.key"] for run in children]
    assert len(keys) == len(set(keys)), "one run a stage, however often it was stopped"


def _works(pid: int) -> bool:
    """True for a process that belongs to a run, and neither to the server nor its watchdog."""
    words: list[str] = []
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    return bool(words) and not {"flows.runs.watchdog", "server"} & set(words)
