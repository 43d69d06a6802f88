"""Runs whose process, server or watchdog is killed: nothing stays or hangs, the end is told."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from common.errors import ConfigError
from flows.environment import answers
from flows.runs import notes, prefect_run
from tests.processes import alive, kill_all

MARK = "TEST_ENDS_STORE"
"""Environment variable by which all processes of a run are found."""
LONGEST = 150.0
"""Seconds until a wait counts as a hang; before, `steel run` hung for 300 and more."""


def wait_for(condition: Callable[[], object], seconds: float = LONGEST) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "hangs"
        time.sleep(0.1)
    return value


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


class Run:
    """The program of these tests, in a process of its own."""

    def __init__(self, store: Path, home: Path, *arguments: str) -> None:
        store.mkdir(exist_ok=True)
        (store / "began").unlink(missing_ok=True)
        (store / "finish").unlink(missing_ok=True)
        self.store, self.home, self.output = store, home, store / "output.txt"
        environment = {name: v for name, v in os.environ.items() if name != "PREFECT_API_URL"}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.flows.ends_program", str(store), *arguments],
                stdout=output,
                stderr=output,
                env={
                    **environment,
                    "PREFECT_HOME": str(home),
                    "STEEL_PREFECT_PORT": "9",  # whoever tests has perhaps `make up` running
                    MARK: str(store),
                },
            )

    @property
    def began(self) -> bool:
        """True when the flow's function works."""
        assert self.process.poll() is None, self.text
        return "step 2" in self.text

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.output.read_text()

    @property
    def watchdog(self) -> int:
        """Process number of its watchdog."""
        (pid,) = (p for p in children(self.process.pid) if "flows.runs.watchdog" in command(p))
        return pid

    @property
    def server(self) -> int:
        """Process number of its temporary server."""
        (pid,) = (p for p in children(self.watchdog) if "serve" in command(p))
        return pid

    def finish(self) -> int:
        """Let the function return; returns the exit code."""
        (self.store / "finish").touch()
        return self.process.wait(LONGEST)

    def state(self) -> str:
        """State of the flow run in Prefect's database."""
        number = (self.store / "began").read_text().split()[0]
        with contextlib.closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as database:
            query = "SELECT state_type FROM flow_run WHERE replace(id, '-', '') = ?"
            ((state,),) = database.execute(query, (number.replace("-", ""),)).fetchall()
        return str(state)

    def message(self) -> str:
        """Message of that state."""
        number = (self.store / "began").read_text().split()[0]
        with contextlib.closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as database:
            query = (
                "SELECT message FROM flow_run_state WHERE id = "
                "(SELECT state_id FROM flow_run WHERE replace(id, '-', '') = ?)"
            )
            ((message,),) = database.execute(query, (number.replace("-", ""),)).fetchall()
        return str(message)

    def tracked(self) -> set[str]:
        """States of its runs in MLflow."""
        client = MlflowClient(f"sqlite:///{self.store / 'mlflow' / 'mlflow.db'}")
        experiments = [e.experiment_id for e in client.search_experiments()]
        return {run.info.status for run in client.search_runs(experiments)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's folder, whose database is made once."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def start(tmp_path: Path, home: Path) -> Iterator[Callable[..., Run]]:
    """Function that starts a run and waits until it works: (name of the store, *arguments).

    No process of it outlives the test, whatever the test has killed or stopped.
    """
    runs = []

    def begin(name: str, *arguments: str) -> Run:
        runs.append(Run(tmp_path / name, home, *arguments))
        wait_for(lambda: runs[-1].began)
        return runs[-1]

    yield begin
    for run in runs:
        kill_all(MARK, str(run.store))
        run.process.wait()


@pytest.fixture
def run(start: Callable[..., Run]) -> Run:
    return start("store")


def port_of(pid: int) -> int:
    return int(command(pid)[-1])


@pytest.mark.slow
def test_sigkill_of_the_run_leaves_no_process_and_no_running_state(run: Run) -> None:
    processes = [run.watchdog, run.server]
    port = port_of(run.server)
    assert run.state() == "RUNNING" and run.tracked() == {"RUNNING"}
    run.process.kill()  # and it is a zombie for a while, as under a parent that is busy
    wait_for(lambda: not any(alive(pid) for pid in processes))
    run.process.wait()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert run.state() == "CRASHED"
    assert run.tracked() == {"KILLED"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGTERM, "by SIGTERM"),
        (signal.SIGINT, "by Ctrl-C"),
        (signal.SIGHUP, "because its terminal was closed"),
    ],
)
def test_a_run_that_is_asked_to_stop_is_cancelled_and_killed_and_no_crash(
    run: Run, number: signal.Signals, cause: str
) -> None:
    processes = [run.watchdog, run.server]
    run.process.send_signal(number)
    assert run.process.wait(LONGEST) == 128 + number
    wait_for(lambda: not any(alive(pid) for pid in processes))
    message = f"stopped {cause}, finished stages are kept; the same run continues"
    assert run.text.splitlines()[-1] == message
    assert (run.state(), run.message()) == ("CANCELLED", message)
    assert run.tracked() == {"KILLED"}
    assert "Crash" not in run.text and "Traceback" not in run.text


@pytest.mark.slow
def test_a_stopped_run_whose_server_is_gone_is_recorded_by_the_next(
    run: Run, start: Callable[..., Run]
) -> None:
    os.kill(run.watchdog, signal.SIGKILL)  # the server ends with it
    wait_for(lambda: "does not answer" in run.text)
    run.process.terminate()
    assert run.process.wait(LONGEST) == 128 + signal.SIGTERM
    assert run.tracked() == {"KILLED"} and "Traceback" not in run.text
    other = start("other")
    assert run.state() == "CANCELLED"
    assert run.message().startswith("stopped by SIGTERM")
    assert other.finish() == 0


@pytest.mark.slow
def test_a_server_that_is_killed_is_started_again(run: Run) -> None:
    url = f"http://127.0.0.1:{port_of(run.server)}/api"
    killed = run.server
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: not alive(killed))
    wait_for(lambda: answers(url, 5))
    assert run.finish() == 0
    assert "result {'steps'" in run.text and "Traceback" not in run.text
    assert run.state() == "COMPLETED"
    assert run.text.count("does not answer. The work goes on") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_work_ends_well_without_a_server(run: Run, start: Callable[..., Run], number: int) -> None:
    server, watchdog = run.server, run.watchdog
    for pid in (watchdog, server):  # stopped, both are there and say nothing
        os.kill(pid, number)
    wait_for(lambda: "does not answer" in run.text)
    lines = len(run.text.splitlines())
    time.sleep(10)
    added = run.text.splitlines()[lines:]
    others = [line for line in added if "INFO" not in line]
    assert len(others) <= 1 and all("did not take the artifact" in line for line in others)
    assert run.finish() == 0
    for pid in (watchdog, server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert "result {'steps'" in run.text and "Traceback" not in run.text
    assert run.text.count("does not answer. The work goes on") == 1
    assert run.tracked() == {"FINISHED"}
    assert run.state() == "RUNNING", "nobody could say so"
    other = start("other")
    assert run.state() == "COMPLETED"
    assert other.finish() == 0


@pytest.mark.slow
def test_a_failed_stage_is_what_is_told_though_the_server_is_gone(
    start: Callable[..., Run],
) -> None:
    run = start("store", "fail")
    os.kill(run.watchdog, signal.SIGKILL)  # the server ends with it
    wait_for(lambda: "does not answer" in run.text)
    assert run.finish() == 1
    assert run.text.splitlines()[-1] == "error: the stage has failed"


@pytest.mark.parametrize("kind", ["closed port", "black hole", "unknown host"])
def test_a_server_of_the_users_that_is_not_there(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_run, "FIRST_ANSWER_SECONDS", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if kind == "black hole":
            server.listen(16)
        host = "prefect.invalid" if kind == "unknown host" else "127.0.0.1"
        url = f"http://me:passw0rd@{host}:{server.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with pytest.raises(ConfigError) as refusal, prefect_run.prefect_server():
            pass
    message = str(refusal.value)
    assert message.startswith("The Prefect server at http://***@")
    assert "does not answer within 1 s" in message and "unset it" in message


def test_a_run_and_its_watchdog_write_one_note_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "NOTES", tmp_path)
    states = ["CRASHED", "COMPLETED"] * 200

    def write(name: str) -> None:
        for state in states:
            notes.write_note("run", {"from": name, "state": state})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))  # raises what a writer has raised
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "COMPLETED"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
