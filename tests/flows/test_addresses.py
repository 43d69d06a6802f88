"""Servers and databases that the environment names are used, and none in their place."""

from pathlib import Path

import pytest

from flows.environment import MLFLOW_URI, PREFECT_API
from flows.services.addresses import (
    is_ours,
    mlflow_command,
    mlflow_page,
    prefect_page,
    serves_mlflow,
    service_environment,
)

NAMES = (
    "PREFECT_API_URL",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_ARTIFACTS_DESTINATION",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
)


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_a_word_everything_is_on_this_machine_and_in_the_store(tmp_path: Path) -> None:
    environment = service_environment(tmp_path)
    assert is_ours(environment) and serves_mlflow(environment)
    assert environment["MLFLOW_TRACKING_URI"] == MLFLOW_URI == mlflow_page()
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert Path(environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"]).is_dir()
    assert prefect_page() + "/api" == PREFECT_API


@pytest.mark.parametrize("uri", ["https://me:word@mlflow.example/x", "http://10.0.0.7:5000"])
def test_mlflow_server_elsewhere_is_kept(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    environment = service_environment(tmp_path)
    assert environment["MLFLOW_TRACKING_URI"] == uri == mlflow_page()
    assert not serves_mlflow(environment)
    assert not (tmp_path / "mlflow").exists()


def test_own_server_under_another_name_is_the_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", MLFLOW_URI.replace("127.0.0.1", "localhost") + "/")
    environment = service_environment(tmp_path)
    assert serves_mlflow(environment)
    assert environment["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:///")


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"])
def test_database_is_served_and_its_password_is_on_no_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "postgresql://me:hidden@db.example/steel")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket/steel")
    environment = service_environment(tmp_path)
    assert serves_mlflow(environment)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:hidden@db.example/steel"
    assert "MLFLOW_DEFAULT_ARTIFACT_ROOT" not in environment
    command = mlflow_command(environment)
    assert "hidden" not in " ".join(command) and "--serve-artifacts" in command


def test_prefect_server_elsewhere_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    environment = service_environment(tmp_path)
    assert not is_ours(environment)
    assert environment["PREFECT_API_URL"] == "https://prefect.example/api"
    assert prefect_page() == environment["PREFECT_UI_URL"] == "https://prefect.example"
