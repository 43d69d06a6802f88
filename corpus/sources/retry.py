"""What goes wrong with remote files: whether to try again, and how to say it without secrets."""

from common.disk import chain, disk_full
from common.errors import DataError
from common.urls import redact

_PERMANENT = (400, 401, 403, 404, 410)
"""HTTP answers that another attempt does not change."""


class NoRanges(Exception):
    """The server gives a file only as a whole."""


def lasting(error: BaseException) -> bool:
    """Whether trying again is useless."""
    if isinstance(error, DataError | NoRanges | PermissionError | NotImplementedError):
        return True
    if disk_full(error):
        return True
    for cause in chain(error):
        response = getattr(cause, "response", None)
        status = getattr(cause, "status", None) or getattr(response, "status_code", None)
        if status is not None:
            return status in _PERMANENT
    # fsspec calls every failure of a server a missing file, but then gives the cause.
    return isinstance(error, FileNotFoundError) and error.__cause__ is None


def explained(error: BaseException, *locations: str) -> str:
    """An exception and what caused it in one line, without the secrets of URLs."""
    causes = [" ".join(f"{type(e).__name__}: {e}".split()).rstrip(": .") for e in chain(error)]
    return redact(" <- ".join(dict.fromkeys(causes[:2])), *locations)
