"""Being asked to stop: by signals, by Prefect's state; and what Prefect's state then says."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.processes import RunStopped, interruptible, stop_on_signals, stopped, uninterrupted
from flows.runs import notes, repair, watchdog
from flows.runs.own_state import MISSED, OwnState
from flows.services import keeper
from tests.processes import PATIENCE_SECONDS, alive, wait_until

WAITS = threading.Event()


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """A shell's background ignores Ctrl-C, `nohup` a closed terminal, and so would these tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGTERM, "by SIGTERM"),
        (signal.SIGINT, "by Ctrl-C"),
        (signal.SIGHUP, "because its terminal was closed"),
    ],
)
def test_a_signal_stops_once_and_says_what_was_kept(number: signal.Signals, cause: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunStopped) as caught, stop_on_signals():
        try:
            os.kill(os.getpid(), number)
            pytest.fail("it goes on")
        except RunStopped as stop:
            for other in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), other)  # while children save: changes nothing
            stop.kept.append("pretrain smoke saved step 70")
            raise
    assert caught.value.message == (
        f"stopped {cause}, pretrain smoke saved step 70; the same run continues"
    )
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_ends_the_wait_for_children() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, stop_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except RunStopped:
            os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(caught.value, RunStopped)


def test_prefects_own_steps_are_not_interrupted() -> None:
    steps = []
    with pytest.raises(RunStopped), stop_on_signals(), uninterrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("own step")
        with interruptible():
            steps.append("work")
    assert steps == ["own step"]
    with pytest.raises(RunStopped), stop_on_signals():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("all own")
        steps.append("after")
    assert steps[-1] == "all own"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopped() is None
    finally:
        signal.signal(signal.SIGHUP, before)


class Api:
    """A Prefect server that knows one flow run."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"type": "RUNNING", "name": "Running", "message": None}
        self.sent: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"state": api.state, "state_type": api.state["type"]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/set_state"):
                    api.state = body["state"]
                    api.sent.append(body["state"])
                    self._answer({})
                else:
                    self._answer(api.more.get(self.path.removeprefix("/api"), []))

            def _answer(self, value: Any) -> None:
                content = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"


@contextmanager
def serving() -> Iterator[Api]:
    api = Api()
    threading.Thread(target=api.server.serve_forever, daemon=True).start()
    try:
        yield api
    finally:
        api.server.shutdown()
        api.server.server_close()


@pytest.mark.parametrize("kind", ["CANCELLING", "CANCELLED"])
def test_a_cancelled_run_stops_itself_without_a_worker(kind: str) -> None:
    told = []
    with serving() as api:
        own = OwnState("r", api.url, lambda state, message: told.append((state, message)))
        with pytest.raises(RunStopped) as caught, stop_on_signals():
            own.look()
            assert stopped() is None
            api.state = {"type": kind, "name": kind.capitalize(), "message": None}
            own._next = 0.0
            thread = threading.Thread(target=own.look)  # as the server's watch does
            thread.start()
            thread.join()
            WAITS.wait(PATIENCE_SECONDS)
            pytest.fail("it goes on")
    assert caught.value.message == "stopped, finished stages are kept; the same run continues"


def test_a_run_that_lives_corrects_the_automations_crash_and_no_other() -> None:
    with serving() as api:
        own = OwnState("r", api.url, lambda state, message: None)
        for message, corrected in ((f"{MISSED} for 95 s", True), ("by hand", False)):
            api.state = {"type": "CRASHED", "name": "Crashed", "message": message}
            own._next = 0.0
            own.look()
            assert (api.state["type"] == "RUNNING") is corrected


def test_the_message_of_a_stopped_run_stays_when_the_worker_writes_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as api:
        api.state = {"type": "CANCELLED", "name": "Cancelled", "message": "Flow run was cancelled"}
        watchdog._keep_message(api.url, "r", "stopped, saved step 70; the same run continues")
        assert api.state["message"] == "stopped, saved step 70; the same run continues"
        api.state = {"type": "RUNNING", "name": "Running", "message": None}  # started again
        watchdog._keep_message(api.url, "r", "stopped")
        assert api.state["type"] == "RUNNING"


@pytest.mark.parametrize(
    ("now", "told", "last"),
    [
        ("RUNNING", "CRASHED", "CRASHED"),
        ("CANCELLING", "CRASHED", "CANCELLED"),
        ("RUNNING", "CANCELLED", "CANCELLED"),
        ("RUNNING", "COMPLETED", "COMPLETED"),
        ("CANCELLED", "CRASHED", "CANCELLED"),
        ("COMPLETED", "CRASHED", "COMPLETED"),
    ],
)
def test_last_state_of_a_run_whose_process_is_gone(now: str, told: str, last: str) -> None:
    with serving() as api:
        api.state = {"type": now, "name": now.capitalize(), "message": None}
        watchdog.settle(api.url, "r", told)
        assert api.state["type"] == last


def run_of(kind: str, **more: Any) -> dict[str, Any]:
    state = {"type": kind, "name": kind.capitalize(), "timestamp": "2026-01-01T00:00:00Z"}
    return {"id": "r1", "name": "smoke", "state": state, "deployment_id": "d", **more}


@pytest.mark.parametrize(
    ("kind", "beats", "last"),
    [("RUNNING", [], "CRASHED"), ("RUNNING", [{}], None), ("PENDING", [], "SCHEDULED")],
)
def test_runs_that_nothing_works_on_are_repaired_and_those_that_beat_are_not(
    kind: str, beats: list[Any], last: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "NOTES", tmp_path)
    monkeypatch.setattr(repair, "running_services", dict)
    with serving() as api:
        api.state = {"type": kind, "name": kind.capitalize()}
        api.more = {"/flow_runs/filter": [run_of(kind)], "/events/filter": {"events": beats}}
        looked = list(repair._flow_runs(api.url, repair=False))
        assert api.sent == [], "only looked at"
        found = list(repair._flow_runs(api.url, repair=True))
        assert [one.what for one in looked] == [one.what for one in found]
        assert all(one.repaired for one in found) and len(found) == (last is not None)
        assert [state["type"] for state in api.sent] == ([last] if last else [])


def test_a_note_tells_a_live_run_from_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "NOTES", tmp_path)
    note = {"host": repair.socket.gethostname(), "pid": os.getpid(), "state": "CRASHED"}
    for started, dead in ((repair.process_start(os.getpid()), False), ("1", True)):
        notes.write_note("r1", {**note, "started": started})
        assert (repair._dead_because("http://127.0.0.1:9/api", run_of("RUNNING")) is not None) is (
            dead
        )


def test_what_is_left_of_a_service_is_ended_and_nothing_else() -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert first.stdout is not None
    second = int(first.stdout.readline())
    first.stdout.close()
    own = {"pid": os.getpid(), "started": "1"}
    first.wait()
    assert alive(second)
    assert keeper.end_leftovers({"mlflow": {"pid": first.pid, "started": "1"}, "worker": own}) == [
        "mlflow"
    ]
    wait_until(lambda: not alive(second), "the second process is gone")


@pytest.mark.parametrize(("there", "started"), [(True, 1), (False, 0)])
def test_the_keeper_starts_a_worker_that_gave_up_once_its_server_answers(
    there: bool, started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"pid": os.getpid(), "started": keeper.process_start(os.getpid())}
    gone = {"pid": os.getpid(), "started": "1"}
    seen = [{"prefect": own, "worker": gone}, {"prefect": gone}]
    restarted: list[bool] = []
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0)
    monkeypatch.setattr(notes, "NOTES", tmp_path)
    monkeypatch.setattr(keeper, "running_services", lambda: seen.pop(0))
    monkeypatch.setattr(keeper, "answers", lambda url, seconds: there)
    monkeypatch.setattr(keeper, "repair_killed", lambda store: None)
    monkeypatch.setattr(keeper, "_restart_worker", lambda: restarted.append(True))
    keeper.keep(tmp_path)
    assert len(restarted) == started and not seen, "it ends with the last service"


def test_the_keeper_repairs_again_what_a_server_that_was_away_did_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ever more rarely: what is not of this server cannot be repaired at all."""
    own = {"pid": os.getpid(), "started": keeper.process_start(os.getpid())}
    looks = 40
    seen = [{"prefect": own}] * looks + [{"prefect": own | {"started": "1"}}]
    repaired: list[int] = []
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0)
    monkeypatch.setattr(notes, "NOTES", tmp_path)
    monkeypatch.setattr(keeper, "running_services", lambda: seen.pop(0))
    monkeypatch.setattr(keeper, "repair_killed", lambda store: repaired.append(len(seen)))
    notes.write_note("r", {"host": socket.gethostname(), "pid": os.getpid(), "started": "1"})
    keeper.keep(tmp_path)
    tried = [looks + 1 - left for left in repaired]
    assert tried == [0, 2, 4, 8, 16, 32], "at once, and from the second look on"
