"""A Prefect server that is watched: does it still answer, and what is done until it does again."""

import collections
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from common.redaction import redact
from flows.environment import answers

EVERY_SECONDS = 2.0
"""Between two questions whether the server answers."""
SILENCES = 3
"""Questions in a row without an answer until the server counts as gone."""
KEPT_LINES = 10_000
"""Lines of the log that are kept for a server that is gone."""

log = logging.getLogger("steel.prefect")


class ServerWatch:
    """A thread that notices when the Prefect server goes away and when it is back."""

    def __init__(self, url: str) -> None:
        self.url, self.away = url, False
        self.look: Callable[[bool], None] | None = None
        """Called after each question to the server; True: it has answered."""
        self.kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=KEPT_LINES)
        self._silences, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="prefect-watch")

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()

    @property
    def watching(self) -> bool:
        """True between start and stop."""
        return self._thread.is_alive() and not self._stop.is_set()

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            if there := answers(self.url, 5):
                self._silences = 0
                # Not while the process ends: Prefect's threads cannot be started any more.
                if self.away and not self._stop.is_set():
                    self.come_back()
            else:
                self._silences += 1
                if self._silences == SILENCES:
                    self.go_away()
            if (look := self.look) is not None:
                look(there)

    def go_away(self) -> None:
        """Let calls fail at once, and keep lines of the log."""
        from prefect.events.clients import NullEventsClient
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import set_api_log_sink

        self.away = True
        set_api_log_sink(self.kept.append)
        EventsWorker.set_client_override(NullEventsClient)
        log.warning(
            "The Prefect server at %s does not answer. The work goes on without its page; results "
            "are in the store as ever.",
            redact(self.url),
        )

    def come_back(self) -> None:
        """Let calls go to the server again, and send it the kept lines."""
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import emit_api_log, set_api_log_sink

        self.away = False
        EventsWorker.set_client_override(None)
        set_api_log_sink(None)
        with contextlib.suppress(RuntimeError):  # the process ends meanwhile
            while self.kept:
                emit_api_log(self.kept.popleft())
        log.warning("The Prefect server at %s answers again", redact(self.url))
