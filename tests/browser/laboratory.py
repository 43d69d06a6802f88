"""Prefect, MLflow and a worker of the browser tests' own, and the runs that their pages show.

    Laboratory(folder) ──▶ finished: a whole pipeline of tiny sizes
                       ──▶ training: a pretraining that goes on for hours; waiting: one more

All has its own ports, databases and store; the guard ends it when the tests are killed.
"""

import socket
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.paths import ROOT
from flows.schedules import registration
from flows.schedules.registration import register
from tests.flows.schedules.test_server import Server, until
from tests.flows.whole_run import write_config
from tests.processes import kill_all

MARK = "TEST_BROWSER"
"""Environment variable by which all processes of the laboratory are found."""
GUARD = (
    "import sys; from tests.processes import kill_all; sys.stdin.read(); kill_all(*sys.argv[1:])"
)
STEPS = 200_000
"""Of a training that is seen while it works: more than any test waits for."""


class Laboratory(Server):
    """The services of `make up`, apart from the user's, and runs of the deployments."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.mlflow = f"http://127.0.0.1:{probe.getsockname()[1]}"
        super().__init__(folder)
        self.page = self.api.removesuffix("/api")

    def start(self) -> None:
        """Start the servers and the worker, and register the deployments."""
        self.guard = subprocess.Popen(
            [sys.executable, "-c", GUARD, MARK, str(self.folder)], cwd=ROOT, stdin=subprocess.PIPE
        )
        artifacts = self.store / "mlflow" / "artifacts"
        artifacts.mkdir(parents=True)
        self.environment |= {
            MARK: str(self.folder),
            "PREFECT_UI_URL": self.api.removesuffix("/api"),
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.store / 'mlflow' / 'mlflow.db'}",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "STEEL_DEVICES_FOLDER": str(self.folder / "devices"),
        }
        tracker = self._mlflow()
        super().start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registration, "MERGED", self.folder / "merged.yaml")
            patch.setattr(registration, "REGISTERED", self.folder / "registered.json")
            register(self.api, "steel", self.prefect)
        # Kept until they have ended: Python warns of a process that nobody waits for.
        self.others = (tracker, self.spawn("worker", "start", "--pool", "steel"))

    def close(self) -> None:
        """End every process, those of runs too."""
        kill_all(MARK, str(self.folder))
        for process in (self.process, *self.others):
            process.wait()
        self.guard.communicate()

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """Answer of the server's API; asked again where a busy machine has locked its database."""
        found: list[Any] = []

        def answered() -> bool:
            try:
                found.append(super(Laboratory, self).ask(path, body, method))
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
            return bool(found)

        until(answered)
        return found[0]

    def _mlflow(self) -> "subprocess.Popen[bytes]":
        port = self.mlflow.rpartition(":")[2]
        arguments = ("--host=127.0.0.1", f"--port={port}", "--workers=1", "--no-serve-artifacts")
        with (self.folder / "mlflow.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def deployment_id(self, name: str) -> str:
        """Id of a deployment of prefect.yaml."""
        return str(self.ask(f"deployments/name/steel/{name}")["id"])

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment; returns its id."""
        given = {"config": str(self.config()), "store": str(self.store), **parameters}
        place = f"deployments/{self.deployment_id(deployment)}/create_flow_run"
        return str(self.ask(place, {"parameters": given, "state": {"type": "SCHEDULED"}})["id"])

    def train(self, **parameters: Any) -> str:
        """Start a pretraining that goes on for hours; returns its id."""
        more = ["pretrain.epochs=10000"]
        return self.start_run("pretrain", steps=STEPS, overrides=more, **parameters)

    def state(self, run: str) -> dict[str, Any]:
        """State of a run."""
        found: dict[str, Any] = self.ask(f"flow_runs/{run}")["state"]
        return found

    def wait(self, run: str, *names: str) -> dict[str, Any]:
        """The run's state, once it has one of these names."""
        ends = {"Completed", "Failed", "Crashed", "Cancelled"}
        until(lambda: self.state(run)["name"] in {*names, *ends})
        state = self.state(run)
        assert state["name"] in names, (state, self.log(run))
        return state

    def log(self, run: str) -> list[str]:
        """Last lines of a run's log."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return [line["message"] for line in self.ask("logs/filter", wanted)]

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """Key -> artifact of a run."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return {one["key"]: one for one in self.ask("artifacts/filter", wanted) if one["key"]}

    def progress(self, run: str, stage: str) -> float:
        """Per cent of a stage, as its artifact says; 0 without one. The run must not have ended."""
        assert self.state(run)["name"] not in {"Failed", "Crashed", "Cancelled"}, self.log(run)
        found = self.artifacts(run)
        return max(
            (
                float(one["data"])
                for key, one in found.items()
                if key == f"{stage}-browser-progress"
            ),
            default=0.0,
        )

    def config(self) -> Path:
        """Configuration of the pipeline: every stage, at sizes that take a minute."""
        path = self.folder / "browser.yaml"
        if not path.exists():
            whole = yaml.safe_load(write_config(self.folder).read_text())
            whole |= {
                "name": "browser",
                "benchmarks": dict.fromkeys(("ceval", "mmlu"), "sample-data"),
                "evaluate": {"limit": 4, "num_fewshot": 0, "modes": ["likelihood"]},
            }
            whole["pretrain"] |= {"steps": 20, "log_interval": 1}
            path.write_text(yaml.safe_dump(whole))
        return path
