"""The state of a flow run in Prefect, as its own process sees it and sets it.

    every few seconds   Cancelling, Cancelled: stop, save what can be saved
                        Crashed, because its heartbeats did not come through: Running again
    when it stops       Cancelled, with what was saved; a line of the log says the same

Prefect's worker sends SIGTERM too, when it is there and sees the cancellation; whichever comes
first counts. docs/adr/0074
"""

import logging
import time
from collections.abc import Callable
from typing import NoReturn

from common.processes import RunStopped, request_stop, stopped
from flows.environment import request
from flows.runs.watchdog import STOPPED, set_state

LOOK_SECONDS = 4.0
"""Between two looks at the own state."""
MISSED = "No heartbeat came"
"""Begin of the message of a state that Prefect's automation has set (flows/services)."""

log = logging.getLogger("steel.prefect")


class OwnState:
    """The flow run that this process works for.

    Args:
        run_id: Prefect's id of it; empty outside of one.
        url: address of its server's API.
        tell: tells the watchdog a state and its message.
    """

    def __init__(self, run_id: str, url: str, tell: Callable[[str, str], None]) -> None:
        self.run_id, self.url, self.tell = run_id, url, tell
        self._told, self._next = False, time.monotonic()

    def look(self, there: bool = True) -> None:
        """Ask the server, when it is time and it is there; called from a thread."""
        if stopped() is not None:
            if not self._told:
                # Should this process be killed before it has ended its children.
                self._told = True
                self.tell("CANCELLED", STOPPED)
            return
        if not there or not self.run_id or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        try:
            state = self._read()
        except (OSError, ValueError, KeyError):
            return  # the server's watch says so
        if state["type"] in ("CANCELLING", "CANCELLED"):
            request_stop()
        elif state["type"] == "CRASHED" and (state.get("message") or "").startswith(MISSED):
            self._live_on()

    def end_stopped(self, stop: RunStopped, *, away: bool) -> NoReturn:
        """Record that the run was stopped, and leave the flow's function.

        away: the server does not answer; the watchdog records it later.
        """
        from prefect.exceptions import Abort
        from prefect.logging import get_run_logger
        from prefect.states import Cancelled

        get_run_logger().warning("%s", stop.message)
        self.tell("CANCELLED", stop.message)
        end = Abort(stop.message)
        if not away:
            try:
                self._set("CANCELLED", stop.message)
                # Prefect's engine takes it for its own last state.
                end.state = Cancelled(message=stop.message)  # type: ignore[attr-defined]
            except (OSError, ValueError, KeyError) as error:
                log.debug("the state could not be recorded: %s", error)
        raise end from None

    def _live_on(self) -> None:
        try:
            self._set("RUNNING", "It runs: its heartbeats did not come through.")
        except (OSError, ValueError, KeyError) as error:
            log.debug("the state could not be corrected: %s", error)
            return
        log.warning("Prefect took this run for dead, and shows it as running again")

    def _read(self) -> dict[str, str]:
        state: dict[str, str] = request(f"{self.url}/flow_runs/{self.run_id}")["state"]
        return state

    def _set(self, kind: str, message: str) -> None:
        set_state(f"{self.url}/flow_runs/{self.run_id}", kind, message)
