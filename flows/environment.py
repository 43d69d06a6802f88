"""Environment of every Steel process, set before Prefect and MLflow are imported.

Quiet, offline and on loopback by default; variables that the user has set are kept.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".steel"
"""Databases, logs and process numbers of the local services; safe to remove when they are down."""
SERVICES = STATE / "services.json"

HOST = "127.0.0.1"
PREFECT_PORT = int(os.environ.get("STEEL_PREFECT_PORT", "4200"))
MLFLOW_PORT = int(os.environ.get("STEEL_MLFLOW_PORT", "5000"))
PREFECT_API = f"http://{HOST}:{PREFECT_PORT}/api"
MLFLOW_URI = f"http://{HOST}:{MLFLOW_PORT}"

DEFAULTS = {
    "PREFECT_HOME": str(STATE / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A first start on a busy small machine was measured at over a minute.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    # SQLite on a busy disk: wait for the lock rather than fail a run.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare() -> None:
    """Set the defaults. Call it before Prefect or MLflow is imported."""
    (STATE / "prefect").mkdir(parents=True, exist_ok=True)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_server() -> Iterator[None]:
    """Use the user's server or that of `make up`; where neither is, Prefect's temporary one.

    prefect.toml names the local server for the `prefect` command; while it is down, that address
    has to be forgotten (an empty PREFECT_API_URL would not do: parts of Prefect take it as set).
    """
    if "PREFECT_API_URL" in os.environ or listening(PREFECT_PORT):
        yield
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def listening(port: int) -> bool:
    """Return True if a program accepts connections at a port of this machine's loopback."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def running_services() -> dict[str, Any]:
    """Services that `make up` has started, by name."""
    try:
        services: dict[str, Any] = json.loads(SERVICES.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return services
