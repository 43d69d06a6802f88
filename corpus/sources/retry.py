"""Attempts at what may fail for a while, and clear messages for what fails for good."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from common.disk import error_chain, is_disk_full
from common.errors import DataError
from common.urls import redact

T = TypeVar("T")

ATTEMPTS = 5
"""Attempts at one request before it is given up."""

PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further one."""

LONGEST_PAUSE = 120.0
"""Seconds that a server can ask for at most."""

_PERMANENT = (400, 401, 403, 404, 410)
"""HTTP answers that another attempt does not change."""


class RangesNotSupported(Exception):
    """The server gives a file only as a whole."""


def retry(work: Callable[[], T], stop: threading.Event, *, silences: int = ATTEMPTS) -> T:
    """Call `work` until it succeeds, `ATTEMPTS` times at most, or until `stop` is set.

    silences: attempts that may end because nothing was answered in time. A download that has begun
    takes all; a server that never said a word is not asked for many minutes.
    """
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except Exception as error:
            silences -= any(isinstance(cause, TimeoutError) for cause in error_chain(error))
            last = attempt == ATTEMPTS - 1 or silences == 0
            if last or is_permanent(error) or stop.wait(_pause(error, attempt)):
                raise
    raise AssertionError


def _pause(error: BaseException, attempt: int) -> float:
    """Seconds to wait; as many as a server that is asked too often says, within bounds."""
    usual = float(PAUSE * 2**attempt)
    for cause in error_chain(error):
        answer = getattr(cause, "response", cause)
        asked = str((getattr(answer, "headers", None) or {}).get("Retry-After", ""))
        if asked.isdecimal():
            return min(LONGEST_PAUSE, max(usual, float(asked)))
    return usual


def is_permanent(error: BaseException) -> bool:
    """True if trying again is useless."""
    if isinstance(error, DataError | RangesNotSupported | PermissionError | NotImplementedError):
        return True
    if is_disk_full(error):
        return True
    for cause in error_chain(error):
        response = getattr(cause, "response", None)
        status = getattr(cause, "status", None) or getattr(response, "status_code", None)
        if status is not None:
            return status in _PERMANENT
    # fsspec calls every failure of a server a missing file, but then gives the cause.
    return isinstance(error, FileNotFoundError) and error.__cause__ is None


@contextlib.contextmanager
def as_data_error(what: str, remedy: str, *secret_urls: str) -> Iterator[None]:
    """Turn whatever a library raises into one DataError without the secrets of URLs.

    A full disk is left as it is, for `acquire_dataset` to explain.
    """
    try:
        yield
    except (DataError, RangesNotSupported):
        raise
    # Of any kind: what a lost connection raises depends on the client below the library.
    except Exception as error:
        if is_disk_full(error):
            raise
        causes = [
            " ".join(f"{type(e).__name__}: {e}".split()).rstrip(": .") for e in error_chain(error)
        ]
        explained = redact(" <- ".join(dict.fromkeys(causes[:2])), *secret_urls)
        # Without the cause: its traceback would show the URL as it is.
        raise DataError(f"{what}: {explained}. {remedy}") from None
