"""Lines of Prefect's loggers in a run's console."""

import logging
from collections.abc import Iterator

import pytest

from common.errors import DataError
from tasks.core.artifacts import shorten_user_errors


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Prefect's logger of a task run, as a run of ours has it."""
    found = logging.getLogger("prefect.task_runs")
    before = found.filters[:], found.propagate
    shorten_user_errors()
    found.propagate = True
    yield found
    found.filters, found.propagate = before


def test_what_went_well_is_told_once_and_an_error_without_its_traceback(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.states import Completed, Failed

    caplog.set_level(logging.INFO)
    logger.info("pack: done in 8 s")
    for state in (Completed(), Failed(message="no rows")):
        logger.info(f"Finished in state {state}")  # as Prefect's engines write it
    try:
        raise DataError("no rows")
    except DataError:
        logger.exception("Encountered exception")
    told, failed, error = caplog.records
    assert told.getMessage() == "pack: done in 8 s"
    assert "Failed" in failed.getMessage() and "no rows" in failed.getMessage()
    assert error.exc_info is None
