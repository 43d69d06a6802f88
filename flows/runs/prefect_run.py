"""A flow run here and now, with a Prefect server that may go away at any time.

    run_flow(flow, …)
      ├── server    the user's, that of `make up`, or a temporary one of the watchdog's
      ├── watched   every few seconds: does it still answer? If not, one warning; until it does,
      │             Prefect's calls fail at once and its lines for the server are kept
      └── outcome   what the flow's function returned or raised counts, not whether the server
                    took it: stages are finished when they are in the store

docs/adr/0033
"""

import atexit
import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from common.errors import ConfigError, StageError
from common.processes import RunStopped, stop_on_signals
from common.redaction import redact
from flows.environment import PREFECT_API, PREFECT_PORT, answers, listening
from flows.runs.notes import read_note, write_note
from flows.runs.own_state import OwnState
from flows.runs.server_watch import ServerWatch
from flows.runs.watchdog import Watch

P = ParamSpec("P")
R = TypeVar("R")

FIRST_ANSWER_SECONDS = 10.0
"""Longest wait for a server that should be there already."""
LAST_SECONDS = 15.0
"""Longest time for Prefect to hand over what it has left when the process ends."""

log = logging.getLogger("steel.prefect")


class Outcome:
    """Result or error of the function of the newest flow in this process."""

    def __init__(self) -> None:
        self.began = self.done = False
        self.run_id: str | None = None
        self.result: Any = None
        self.error: Exception | None = None
        self.stopped: RunStopped | None = None


_outcome = Outcome()


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """The function of a flow, whose outcome `run_flow` can tell whatever Prefect makes of it."""

    from prefect.runtime import flow_run
    from prefect.settings import PREFECT_API_URL

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run_id, url = str(flow_run.id or ""), str(PREFECT_API_URL.value() or "")
        _outcome.began, _outcome.run_id = True, run_id
        tell = functools.partial(_tell_state, run_id, url)
        by_worker = "PREFECT__FLOW_RUN_ID" in os.environ
        tell("CRASHED")  # until it ends in another way
        own = OwnState(run_id, url, tell)
        try:
            # Prefect's worker sends SIGTERM for whoever has cancelled the run.
            with watched(own.look), stop_on_signals(named=not by_worker):
                result = function(*args, **kwargs)
        except RunStopped as stop:
            _outcome.stopped = stop
            own.end_stopped(stop, away=server_is_away())
        except Exception as error:
            _outcome.error = error
            tell("FAILED")
            raise
        _outcome.result, _outcome.done = result, True
        tell("COMPLETED")
        return result

    return call


def _tell_state(run_id: str, url: str, state: str, message: str = "") -> None:
    """Tell the watchdog the state of a flow run, should Prefect not be able to record it."""
    if not run_id or not url:
        return
    watchdog().tell(
        watch="flow",
        id=run_id,
        url=url,
        temporary=url in _temporary,
        state=state,
        message=message,
        # Set by the worker, which writes a message of its own when it has cancelled a run.
        worker="PREFECT__FLOW_RUN_ID" in os.environ,
    )
    # The watchdog may be gone too; the next one reads its note.
    if (known := read_note(run_id)) is not None:
        with contextlib.suppress(OSError):
            write_note(run_id, {**known, "state": state, "message": message})


def run_flow(flow: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow; returns what its function returns.

    Raises what its function raises; RunStopped when it was asked to stop; ConfigError when there is
    no Prefect server to run it with.
    """
    global _outcome
    from prefect.exceptions import Abort

    with prefect_server() as server:
        _outcome = outcome = Outcome()
        try:
            return flow(*args, **kwargs)
        except Abort:
            if outcome.stopped is None:
                raise
            raise outcome.stopped from None
        except Exception as error:
            if outcome.done:
                if not _record_completed(outcome.run_id):
                    log.warning(
                        "Prefect did not record the end of this run (%s). Its work is done, and in "
                        "the store.",
                        _line(error),
                    )
                result: R = outcome.result
                return result
            if outcome.error is not None:
                raise outcome.error from None
            if outcome.began or not _is_servers(error):
                raise
            raise ConfigError(
                f"The Prefect server at {redact(server.url)} does not take this run: "
                f"{_line(error)}. {REMEDY}"
            ) from None


def _record_completed(run_id: str | None) -> bool:
    """Record the end of a flow run whose work is done; returns False where that failed.

    A server that was away when the flow ended and is back a moment later has taken the second state
    that Prefect's engine then sends, Failed, for the error of the first.
    """
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.states import Completed

    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(str(run_id)), Completed(), force=True)
    except Exception as error:
        log.debug("the state could not be recorded: %s", _line(error))
        return False
    return True


REMEDY = (
    "Start it, correct PREFECT_API_URL (PREFECT_API_KEY, PREFECT_API_AUTH_STRING), or unset it: "
    "then a temporary server is used."
)


_watch: Watch | None = None
_temporary: set[str] = set()
"""Addresses of the servers that this process's watchdogs have started."""
_server: ServerWatch | None = None


def server_is_away() -> bool:
    """True while the Prefect server of this process's flow does not answer."""
    return _server is not None and _server.away


def watchdog() -> Watch:
    """This process's watchdog; started when there is none."""
    global _watch
    if _watch is None or not _watch.alive:
        _watch = Watch()
        atexit.register(_watch.close)
    return _watch


@contextmanager
def prefect_server() -> Iterator[ServerWatch]:
    """Use the user's server or that of `make up`; where neither is, a temporary one.

    prefect.toml names the local server for the `prefect` command; while it is down, the address of
    the temporary server takes its place.

    Raises ConfigError when the user's server does not answer, or a temporary one does not start.
    """
    global _server
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

    url = _url()
    _quieten()
    settings: dict[Any, str] = {PREFECT_API_URL: url}
    if _watch is not None and url == _watch.server_url:
        settings[PREFECT_UI_URL] = PREFECT_API.removesuffix("/api")  # of `make up`, later
    with temporary_settings(settings):
        _server = server = ServerWatch(url)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def watched(look: Callable[[bool], None]) -> Iterator[None]:
    """Watch a flow's server, which `run_flow` does already or somebody else has started (Prefect's
    worker), for the length of the block.

    look: called every few seconds, also while it does not answer.
    """
    global _server
    from prefect.settings import PREFECT_API_URL

    started = None
    if _server is None or not _server.watching:
        if not (url := PREFECT_API_URL.value()):
            yield
            return
        _quieten()
        _server = started = ServerWatch(str(url))
    server = _server
    server.look = look
    if started is not None:
        started.start()
    try:
        yield
    finally:
        server.look = None
        if started is not None:
            started.stop()


def ask_for_server() -> None:
    """Let a temporary server start, where one will be needed: it takes some seconds of another
    core, and `run_flow` waits for what is left of them."""
    if not os.environ.get("PREFECT_API_URL") and not listening(PREFECT_PORT):
        watchdog().ask_for_server()


def _url() -> str:
    given = os.environ.get("PREFECT_API_URL")
    if given:
        if not _answers_soon(given):
            raise ConfigError(
                f"The Prefect server at {redact(given)} (PREFECT_API_URL) does not answer within "
                f"{FIRST_ANSWER_SECONDS:.0f} s. {REMEDY}"
            )
        return given
    if listening(PREFECT_PORT):
        if _answers_soon(PREFECT_API):
            return PREFECT_API
        log.warning(
            "What listens on port %d is no Prefect server that answers; a temporary one is used",
            PREFECT_PORT,
        )
    dog = watchdog()
    if dog.server_url is None and (problem := dog.start_server()):
        raise StageError(f"A temporary Prefect server did not start: {problem}")
    assert dog.server_url is not None
    _temporary.add(dog.server_url)
    return dog.server_url


def _answers_soon(url: str) -> bool:
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while True:
        if answers(url, max(1.0, deadline - time.monotonic())):
            return True
        if time.monotonic() > deadline - 0.5:
            return False
        time.sleep(0.5)


def _is_servers(error: BaseException) -> bool:
    """True if an error comes from calling the server."""
    import httpx
    from prefect.exceptions import PrefectException

    return isinstance(error, httpx.HTTPError | PrefectException)


def _line(error: BaseException) -> str:
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


class _ServersTrouble(logging.Filter):
    """Drops Prefect's lines about each event and batch that a server did not take.

    Also the traceback of a state that it did not take after the work was done: `run_flow` says so.
    And the address of a run on a temporary server, which has no pages.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _outcome.done and record.levelno >= logging.ERROR and record.name == "prefect.flow_runs":
            return False
        text = record.getMessage()
        if _temporary and text.startswith("View at "):
            return False
        return not (text.startswith("Service ") and ("failed" in text or "is full" in text)) and (
            "Unable to connect to" not in text
        )


def _quieten() -> None:
    """One warning is enough when the server goes away: without this, several a second come."""
    logging.raiseExceptions = False  # Prefect's handler prints every batch that fails
    _fail_at_once()
    for name in (
        "prefect._internal.concurrency",
        "prefect.events.clients",
        "prefect.flow_runs",
        "EventsWorker",
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _ServersTrouble) for f in logger.filters):
            logger.addFilter(_ServersTrouble())


@functools.cache
def _fail_at_once() -> None:
    """Let Prefect's clients raise without a wait while the server is away.

    At its end a flow asks for up to three states, and tries each several times; a server that takes
    connections and says nothing would make of that some five minutes.
    """
    import httpx
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    def guarded(send: Any) -> Any:
        @functools.wraps(send)
        def call(self: Any, request: httpx.Request, *args: Any, **kwargs: Any) -> Any:
            if server_is_away():
                raise httpx.ConnectError("the Prefect server does not answer", request=request)
            return send(self, request, *args, **kwargs)

        return call

    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        client.send = guarded(client.send)  # type: ignore[method-assign]


def bound_the_end(code: int) -> None:
    """End this process with a status, a command's last, also when Prefect's threads do not.

    They hand over what they have left when the interpreter shuts down, before functions of `atexit`
    are called, and wait for a server that is gone. Of what is registered there the last is called
    first, so this is to be called when all is done.
    """
    shutting_down = threading.Event()

    def leave() -> None:
        shutting_down.wait()
        time.sleep(0 if server_is_away() else LAST_SECONDS)
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if _watch is not None:
            _watch.close()
        os._exit(code)

    threading.Thread(target=leave, daemon=True, name="bounded-end").start()
    threading._register_atexit(shutting_down.set)  # type: ignore[attr-defined]
