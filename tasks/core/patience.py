"""Calls to servers that may be away: bounded in time, and not repeated while they are."""

import contextvars
import threading
import time
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


def within(seconds: float, call: Callable[[], R]) -> R:
    """Result of a call. Raises TimeoutError when it takes longer; it is then left to itself.

    Timeouts of HTTP do not bound it: they count from byte to byte, and not the look-up of a name.
    """
    results: list[R] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.append(context.run(call))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="bounded-call")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]


class Outage:
    """Attempts at a server: always while it answers, then after 60 s, 120 s, … 600 s."""

    FIRST_SECONDS, LONGEST_SECONDS = 60.0, 600.0

    def __init__(self) -> None:
        self.away = False
        self._next, self._pause = 0.0, self.FIRST_SECONDS
        self._lock = threading.Lock()

    def may_try(self) -> bool:
        """True if a call makes sense now; while the server is away, for one of several callers."""
        with self._lock:
            if self.away and time.monotonic() < self._next:
                return False
            self._next = time.monotonic() + self._pause
            return True

    def failed(self) -> bool:
        """Note that it did not answer. Returns True if it did before."""
        with self._lock:
            first, self.away = not self.away, True
            if not first:
                self._pause = min(2 * self._pause, self.LONGEST_SECONDS)
            self._next = time.monotonic() + self._pause
            return first

    def worked(self) -> bool:
        """Note that it answered. Returns True if it did not before."""
        with self._lock:
            was_away, self.away, self._pause = self.away, False, self.FIRST_SECONDS
            return was_away
