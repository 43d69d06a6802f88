"""A pipeline context without servers.

Prefect's tasks run in a test harness, MLflow in a folder.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from prefect.testing.utilities import prefect_test_harness

from tasks.core.stage import Context
from tasks.core.tracking import Tracker


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server and database for the whole test session."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one costs seconds of migrations, copying it nothing."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh store with its own empty MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "store"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copy(empty_mlflow, folder / "mlflow" / "mlflow.db")
    return folder


@pytest.fixture
def context(store: Path, prefect_server: None) -> Context:
    """A fresh store and its tracker."""
    return Context(store=store, tracker=Tracker(store=store, pipeline="test", pipeline_id="test"))
