"""Deployments on a real server: what was changed there stays, and schedules' runs complete."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from common.paths import ROOT
from common.recipes import read_yaml
from flows.environment import DEFAULTS, answers, request
from flows.schedules import registration
from flows.schedules.registration import register
from tests.flows.schedules.small_pipeline import write_config, write_corpora

pytestmark = pytest.mark.slow  # a server, a worker and six commands, each of many seconds

PATIENCE_SECONDS = 1200
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
NIGHTLY = {"slug": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "active": False}


class Server:
    """A Prefect server of its own, which can be started again."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ,
            **DEFAULTS,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self.home = home
        self.start()

    def start(self) -> None:
        arguments = ("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.process = self.spawn(*arguments)
        until(lambda: answers(self.api, 5))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def spawn(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.home / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def prefect(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True)

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """Answer of the server's API; None for a PATCH."""
        if not method:
            return request(f"{self.api}/{path}", body, seconds=120)
        while True:  # 503: its database is locked, on a busy machine
            answer = httpx.request(method, f"{self.api}/{path}", json=body, timeout=120)
            if answer.status_code != 503:
                answer.raise_for_status()
                break
            time.sleep(1)
        return None

    def deployment(self, name: str = "tiny") -> dict[str, Any]:
        found: dict[str, Any] = self.ask("/".join(("deployments", "name", "steel", name)))
        return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("prefect"))
    yield found
    found.stop()


def prefect_yaml(path: Path, **changes: Any) -> Path:
    deployment = {
        "name": "tiny",
        "description": "Says a word.",
        "entrypoint": "tests.flows.schedules.tiny_flow.tiny",
        "work_pool": {"name": "steel", "job_variables": {"stream_output": False}},
        "tags": ["steel"],
        "parameters": {"word": "iron"},
        "schedules": [NIGHTLY],
        **changes,
    }
    path.write_text(yaml.safe_dump({"name": "steel", "deployments": [deployment]}))
    return path


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registration, "MERGED", tmp_path / "merged.yaml")
    monkeypatch.setattr(registration, "REGISTERED", tmp_path / "registered.json")
    return tmp_path / "prefect.yaml"


def schedules(deployment: dict[str, Any]) -> dict[str | None, tuple[Any, bool]]:
    """Slug -> (cron or interval, active)."""
    return {
        one["slug"]: (one["schedule"].get("cron") or one["schedule"]["interval"], one["active"])
        for one in deployment["schedules"]
    }


def test_changes_stay_through_another_registration_a_restart_and_an_upgrade(
    server: Server, source: Path
) -> None:
    assert register(server.api, "steel", server.prefect, prefect_yaml(source)) == ""
    there = server.deployment()
    assert schedules(there) == {"nightly": ("0 2 * * *", False)}

    # In the page: switched on, another hour, one more schedule, parameters, tags, a limit.
    place = f"deployments/{there['id']}"
    schedule = f"{place}/schedules/{there['schedules'][0]['id']}"
    timing = {"cron": "30 4 * * *", "timezone": "Asia/Shanghai"}
    server.ask(schedule, {"active": True, "schedule": timing}, "PATCH")
    server.ask(f"{place}/schedules", [{"schedule": {"interval": 86400}, "active": False}])
    server.ask(place, {"parameters": {"word": "mine"}, "tags": ["steel", "mine"]}, "PATCH")
    server.ask("work_pools/steel", {"concurrency_limit": 1}, "PATCH")

    def check(kept: str) -> None:
        found = server.deployment()
        assert schedules(found)["nightly"] == ("30 4 * * *", True)
        assert schedules(found)[None] == (86400.0, False)
        assert found["parameters"] == {"word": "mine"}
        assert found["tags"] == ["steel", "mine"]
        assert server.ask("work_pools/steel")["concurrency_limit"] == 1
        for words in ("work pool steel: limit 1", "schedule nightly on"):
            assert words in kept
        assert "1 schedule(s) added by hand" in kept

    check(register(server.api, "steel", server.prefect, source))
    server.stop()
    server.start()
    hourly = {"slug": "hourly", "cron": "0 * * * *", "timezone": "UTC", "active": False}
    upgraded = prefect_yaml(source, description="Says one word.", schedules=[hourly, NIGHTLY])
    check(register(server.api, "steel", server.prefect, upgraded))
    assert server.deployment()["description"] == "Says one word."
    assert schedules(server.deployment())["hourly"] == ("0 * * * *", False)
    # Both leave the file: the one that nobody touched goes.
    check(register(server.api, "steel", server.prefect, prefect_yaml(source, schedules=[])))
    assert set(schedules(server.deployment())) == {"nightly", None}


def test_a_scheduled_run_fires_and_completes(server: Server, source: Path) -> None:
    soon = [{"slug": "soon", "interval": 5, "active": True, "parameters": {"word": "on time"}}]
    register(server.api, "steel", server.prefect, prefect_yaml(source, schedules=soon))
    worker = server.spawn("worker", "start", "--pool", "steel")
    try:
        wanted = {
            "deployments": {"name": {"any_": ["tiny"]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        until(lambda: bool(server.ask("flow_runs/filter", wanted)))
    finally:
        worker.terminate()
        worker.wait()
    run = server.ask("flow_runs/filter", wanted)[0]
    assert run["auto_scheduled"] is True
    assert run["parameters"] == {"word": "on time"}


@pytest.mark.timeout(1800)
def test_the_nightly_evaluation_measures_a_checkpoint_once(
    server: Server, source: Path, tmp_path: Path
) -> None:
    """Switched on as in the page, and firing more often than it ends: nothing fails."""
    saved = {"interval": 4, "keep_last": 1}
    data = write_corpora(tmp_path / "data")
    config = write_config(
        tmp_path / "c.yaml", data, steps=4, warmup_steps=1, eval_interval=4, checkpoints=saved
    )
    store = tmp_path / "store"
    train = ("-m", "tests.flows.schedules.small_pipeline", "train", str(config), str(store))
    subprocess.run([sys.executable, *train], cwd=ROOT, check=True)
    [shipped] = [
        one
        for one in read_yaml(ROOT / "prefect.yaml")["deployments"]
        if one["name"] == "evaluate-checkpoints"
    ]
    [nightly] = shipped["schedules"]
    assert nightly.pop("cron")
    nightly["interval"] = 30
    limit = "checkpoint_scores.limit=1"
    shipped["parameters"] |= {"config": str(config), "store": str(store), "overrides": [limit]}
    source.write_text(yaml.safe_dump({"name": "steel", "deployments": [shipped]}))
    register(server.api, "steel", server.prefect, source)
    there = server.deployment("evaluate-checkpoints")
    schedule = f"deployments/{there['id']}/schedules/{there['schedules'][0]['id']}"
    of_it = {"deployments": {"id": {"any_": [there["id"]]}}}

    def runs(*states: str) -> list[dict[str, Any]]:
        wanted = {**of_it, "flow_runs": {"state": {"type": {"any_": states}}}}
        found: list[dict[str, Any]] = server.ask("flow_runs/filter", wanted)
        return found

    def lines(words: str) -> list[str]:
        of_runs = {"flow_run_id": {"any_": [run["id"] for run in runs(*ENDS)]}}
        found = server.ask("logs/filter", {"logs": of_runs})
        return [line["message"] for line in found if words in line["message"]]

    server.ask(schedule, {"active": True}, "PATCH")
    worker = server.spawn("worker", "start", "--pool", "steel", "--limit", "2")
    try:
        until(lambda: bool(lines("nothing is new")))
        server.ask(schedule, {"active": False}, "PATCH")
        until(lambda: not runs("PENDING", "RUNNING"))
    finally:
        worker.terminate()
        worker.wait()
    assert {run["state_type"] for run in runs(*ENDS)} == {"COMPLETED"}
    assert {run["parameters"]["watch"] for run in runs(*ENDS)} == {False}
    assert len(lines("measured in")) == 1
    assert len([*store.glob("checkpoint_scores/*/*/steps/*.json")]) == 1
