"""Runs of MLflow are made, known and ended as one: a stop falls before, between or after."""

import contextlib
from collections.abc import Callable, Iterator

from common.processes import interruptible, uninterrupted


@contextlib.contextmanager
def ended_by_outcome(begin: Callable[[], None], end: Callable[[str], None]) -> Iterator[None]:
    """Begin; when the block ends, end with FINISHED, FAILED (an error), or KILLED (a stop).

    Only the block itself is stopped by signals: a run that has been made and is not known yet, or
    whose end is under way, would stay RUNNING for ever.
    """
    status = "KILLED"
    with uninterrupted():
        begin()
        try:
            with interruptible():
                yield
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            end(status)
