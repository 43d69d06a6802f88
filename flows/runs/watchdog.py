"""A process that outlives a killed run by seconds: it records the end and stops the server.

    steel run ── pipe ──▶ watchdog ──▶ temporary Prefect server
       │                     │            started again should it end by itself
       ✕ killed, by anything └─ the pipe closes ─▶ flow runs: CRASHED, MLflow runs: KILLED,
                                                   server stopped, end

Nothing can be done by a process that gets SIGKILL, and a death signal of the kernel (Linux only)
can stop children but record nothing. The end of a pipe reaches the watchdog on every system,
whatever ended the other side. docs/adr/0033

    python -m flows.runs.watchdog               lines of JSON from standard input: what to watch
    python -m flows.runs.watchdog serve PORT    the temporary server

Its own notes (flows/runs/notes.py) tell the next watchdog what one that was killed with its
run, or a power cut, has left.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Mapping
from typing import Any

from common.child import Child, python
from common.processes import die_with_parent, process_start, still_runs
from common.redaction import install, redact
from flows.environment import HOST, STATE, answers, prepare, request
from flows.runs.notes import notes_of_this_machine, remove_note, write_note

LOG = STATE / "logs" / "watchdog.log"
START_SECONDS = float(os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180"))
"""Longest wait for the temporary server's first answer."""
STOP_SECONDS = 8.0
LAST_SECONDS = 90.0
"""Longest life of the watchdog after the run that it watched; its server has ended long before."""
STARTS = 4
"""Times that the temporary server is started in all, should it end by itself."""
SILENT_SECONDS = 90.0
"""A temporary server that does not answer for so long is killed and started again."""
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""States of a flow run that are left as they are."""
KILLED = "The process that ran it was killed; start it again, and it goes on."
STOPPED = "stopped; what was saved until then is kept"
WORKER_SECONDS = 60.0
"""Longest time in which Prefect's worker writes its own message about a run that it cancelled."""

log = logging.getLogger("steel.watchdog")


class Server:
    """The temporary Prefect server, on a free port of loopback."""

    def __init__(self) -> None:
        # Bound here for good and handed on: nobody else gets the port, also between two starts.
        self.socket = socket.socket()
        self.socket.bind((HOST, 0))
        self.port = int(self.socket.getsockname()[1])
        self.url = f"http://{HOST}:{self.port}/api"
        self.starts, self.answered = 0, time.monotonic()
        self.start()

    def start(self) -> None:
        """Start it; its database is that of the ones before."""
        self.starts += 1
        self.answered = time.monotonic()
        environment = {
            **os.environ,
            "PREFECT_API_URL": self.url,
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        }
        with LOG.open("ab") as output:
            self.child = Child(
                python("flows.runs.watchdog", "serve", self.socket.fileno(), self.port),
                None,
                pass_fds=(self.socket.fileno(),),
                env=environment,
                grace=STOP_SECONDS,
                stdout=output,
                stderr=output,
            )

    def wait(self) -> str:
        """Wait until it answers. Returns an empty text, or the reason why it does not."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.url, 5):
            if (code := self.child.poll()) is not None:
                return f"it ended with status {code}, see {LOG}"
            if time.monotonic() > deadline:
                return f"no answer within {START_SECONDS:.0f} s, see {LOG}"
            time.sleep(0.1)
        self.answered = time.monotonic()
        return ""

    def care(self) -> None:
        """Start it again when it has ended, or does not answer any more."""
        if self.child.poll() is None:
            if answers(self.url, 5):
                self.answered = time.monotonic()
            if time.monotonic() - self.answered < SILENT_SECONDS:
                return
            log.warning("the server at %s does not answer; it is killed", self.url)
            self.child.grace = 0
            self.child.stop()
        if self.starts < STARTS:
            log.warning("the server at %s has ended; it is started again", self.url)
            self.start()

        else:
            self.socket.close()  # who asks is refused, and does not wait

    def stop(self) -> None:
        """Stop it."""
        self.socket.close()
        self.child.stop()


class Watchdog:
    """Flows, trackers and the server that are watched, and their end."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.flows: dict[str, dict[str, Any]] = {}
        self.trackers: set[str] = set()
        self.server: Server | None = None

    def take(self, message: Mapping[str, Any]) -> None:
        """Take one message of the run."""
        match message["watch"]:
            case "server":
                try:
                    self.server = Server()
                    url, problem = self.server.url, self.server.wait()
                except Exception as error:  # the run waits for an answer
                    url, problem = "", f"{type(error).__name__}: {error}"
                print(json.dumps({"url": url, "problem": problem}), flush=True)
                if not problem:
                    self.clear_up(url, kind_of(url, temporary=True))
            case "flow":
                first = message["id"] not in self.flows
                told = ("url", "state", "message", "worker")
                self.flows[message["id"]] = {name: message[name] for name in told}
                # Of a server that a watchdog before this one has started, only the run knows.
                kind = kind_of(message["url"], temporary=message["temporary"])
                self.note(message["id"], kind, message["state"], message["message"])
                if first and self.server is None:
                    self.clear_up(message["url"], kind)
            case "tracker":
                change = self.trackers.add if message["open"] else self.trackers.discard
                change(message["uri"])

    def note(self, flow_run: str, kind: str, state: str, message: str) -> None:
        """Tell the next watchdog of a flow run, should this one be killed too."""
        process = {"host": socket.gethostname(), "pid": self.parent, "started": _parent()}
        write_note(flow_run, {"server": kind, "state": state, "message": message, **process})

    def clear_up(self, url: str, kind: str) -> None:
        """Record the end of runs that were killed together with their watchdog."""
        for flow_run, note in notes_of_this_machine():
            with contextlib.suppress(OSError, ValueError, KeyError):
                if not still_runs(note) and note["server"] == kind:
                    try:
                        settle(url, flow_run, note["state"], note.get("message", ""))
                    except urllib.error.HTTPError as error:
                        if error.code != 404:  # the database is another one by now
                            raise
                    remove_note(flow_run)

    def end(self) -> None:
        """Record the end of the run, and stop the server."""
        for number, flow in self.flows.items():
            with contextlib.suppress(OSError, ValueError, KeyError):
                if self.server is not None and flow["url"] == self.server.url:
                    self.server.wait()
                settle(flow["url"], number, flow["state"], flow["message"])
                remove_note(number)
        if self.server is not None:
            self.server.stop()
        for uri in self.trackers:
            _end_tracked_runs(uri)
        for number, flow in self.flows.items():
            if flow["worker"] and flow["state"] == "CANCELLED":
                _keep_message(flow["url"], number, flow["message"])


def kind_of(url: str, *, temporary: bool) -> str:
    """A server's address without secrets; temporary ones have one database and many ports."""
    return f"temporary {os.environ['PREFECT_HOME']}" if temporary else redact(url)


def set_state(place: str, kind: str, message: str, **more: Any) -> None:
    """Give a flow run or a task run a state, whatever it has. place: its address on the server.

    Raises OSError or ValueError when the server does not take it.
    """
    state = {"type": kind, "name": kind.capitalize(), "message": message, **more}
    request(f"{place}/set_state", {"state": state, "force": True})


def settle(url: str, flow_run: str, state: str, message: str = "") -> None:
    """Give a flow run that is none the wiser its last state, and so its task runs.

    Raises OSError or ValueError when the server does not take it.
    """
    now = request(f"{url}/flow_runs/{flow_run}")["state_type"]
    if now in FINAL:
        return
    if now == "CANCELLING" and state == "CRASHED":
        state, message = "CANCELLED", STOPPED
    message = message or (KILLED if state == "CRASHED" else "Recorded late.")
    set_state(f"{url}/flow_runs/{flow_run}", state, message)
    running = {
        "flow_runs": {"id": {"any_": [flow_run]}},
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}},
    }
    for task in request(f"{url}/task_runs/filter", running):
        set_state(f"{url}/task_runs/{task['id']}", state, message)


def _keep_message(url: str, flow_run: str, message: str) -> None:
    """Write what was saved again, once Prefect's worker has written that it cancelled the run."""
    deadline = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            now = request(f"{url}/flow_runs/{flow_run}")["state"]
            if now["type"] != "CANCELLED":
                return  # it runs again
            if now["message"] != message:
                set_state(f"{url}/flow_runs/{flow_run}", "CANCELLED", message)
                return
        time.sleep(2)


def _end_tracked_runs(uri: str) -> None:
    from tasks.core.tracking import Client, end_killed_runs

    try:
        end_killed_runs(Client(uri))
    except Exception as error:
        log.warning("MLflow did not take the end of a killed run: %s", error)


def _parent() -> str | None:
    return process_start(os.getppid())


def watch() -> int:
    """Watch the process at the other end of standard input until it has gone."""
    dog = Watchdog()
    # A process that it has forked may keep the pipe open: its death counts too.
    messages: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for line in sys.stdin.buffer:
            messages.put(line)
        messages.put(b"")

    threading.Thread(target=read, daemon=True).start()
    line = b"\n"
    while line and os.getppid() == dog.parent:
        try:
            line = messages.get(timeout=2)
        except queue.Empty:
            if dog.server is not None:
                dog.server.care()
            continue
        if line.strip():
            try:
                dog.take(json.loads(line))
            except Exception:  # what else is watched is to be watched on
                log.exception("a message was not understood")
    # Nobody reads it any more, and MLflow prints a line for each run that it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Should a server or a tracker hang, it must not hang for ever.
    last = threading.Timer(LAST_SECONDS, os._exit, [1])
    last.daemon = True
    last.start()
    dog.end()
    return 0


def serve(descriptor: int, port: int) -> int:
    """The temporary server, until the watchdog ends it or dies.

    descriptor: of its socket, which is bound to this port.
    """
    die_with_parent(signal.SIGTERM)
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        host=HOST,
        port=port,
        log_level="error",
        lifespan="on",
    )
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=descriptor)])
    return 0 if server.started else 3


def main(argv: list[str]) -> int:
    """`python -m flows.runs.watchdog [serve DESCRIPTOR PORT]`."""
    install()
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    prepare()
    if argv:
        return serve(int(argv[1]), int(argv[2]))
    code = watch()
    logging.shutdown()
    os._exit(code)  # Python cannot end in order while a thread reads standard input


class Watch:
    """This process's watchdog, as this process sees it."""

    def __init__(self) -> None:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with LOG.open("ab") as errors:
            self.child = Child(
                python("flows.runs.watchdog"),
                None,
                grace=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.server_url: str | None = None
        self._asked = False

    def tell(self, **message: Any) -> None:
        """Send a message; nothing happens when the watchdog is gone."""
        pipe = self.child.process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError, ValueError):
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()

    def ask_for_server(self) -> None:
        """Let the temporary server start; `start_server` waits for it."""
        if not self._asked:
            self._asked = True
            self.tell(watch="server")

    def start_server(self) -> str:
        """Start the temporary server; returns the reason if it does not answer, else nothing."""
        self.ask_for_server()
        self._asked = False
        assert self.child.process.stdout is not None
        line = self.child.process.stdout.readline()
        if not line:
            return f"its watchdog has ended, see {LOG}"
        answer = json.loads(line)
        self.server_url = None if answer["problem"] else str(answer["url"])
        return str(answer["problem"])

    @property
    def alive(self) -> bool:
        """True while it watches."""
        return self.child.poll() is None

    def close(self) -> None:
        """Let it record what is left, stop the server and end."""
        assert self.child.process.stdin is not None and self.child.process.stdout is not None
        with contextlib.suppress(OSError):
            self.child.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.process.wait(STOP_SECONDS + 5)
        self.child.process.stdout.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
