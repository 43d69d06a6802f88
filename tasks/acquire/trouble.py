"""What goes wrong with remote files: whether to try again, and how to say it without secrets."""

import errno
from collections.abc import Iterator

from model.errors import DataError
from tasks._urls import redact

_PERMANENT = (400, 401, 403, 404, 410)
"""HTTP answers that another attempt does not change."""


class NoRanges(Exception):
    """The server gives a file only as a whole."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk or quota."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(e, OSError) and e.errno in full for e in _chain(error))


def lasting(error: BaseException) -> bool:
    """Whether trying again is useless."""
    if isinstance(error, DataError | NoRanges | PermissionError | NotImplementedError):
        return True
    if disk_full(error):
        return True
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        status = getattr(cause, "status", None) or getattr(response, "status_code", None)
        if status is not None:
            return status in _PERMANENT
    # fsspec calls every failure of a server a missing file, but then gives the cause.
    return isinstance(error, FileNotFoundError) and error.__cause__ is None


def explained(error: BaseException, *locations: str) -> str:
    """An exception and what caused it in one line, without the secrets of URLs."""
    causes = [" ".join(f"{type(e).__name__}: {e}".split()).rstrip(": .") for e in _chain(error)]
    return redact(" <- ".join(dict.fromkeys(causes[:2])), *locations)
