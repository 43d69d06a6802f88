"""A pipeline context without servers: Prefect's tasks run in a test harness, MLflow in a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from tasks._stage import Context
from tasks._tracking import Tracker


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server and database for the whole test session."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def context(tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A fresh store with its own MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "store"
    store.mkdir()
    return Context(store=store, tracker=Tracker(store=store, pipeline="test", pipeline_id="test"))
