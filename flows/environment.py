"""Environment of every Steel process, set before Prefect and MLflow are imported.

Quiet, offline and on loopback by default; whatever the user has set already stays.
"""

import json
import os
import socket
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


def prepare(*, serverless: bool = True) -> None:
    """Set the defaults; without running services use Prefect's own temporary server.

    Args:
        serverless: whether a missing server is replaced by a temporary one (`steel run`), rather
            than being an error (a worker).
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if serverless and "PREFECT_API_URL" not in os.environ:
        # Empty on purpose: prefect.toml names the server of `make up`, which may be down.
        os.environ["PREFECT_API_URL"] = PREFECT_API if listening(PREFECT_PORT) else ""


def listening(port: int) -> bool:
    """Whether something on this machine's loopback accepts connections at a port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def running_services() -> dict[str, Any]:
    """What `make up` has started, by name; empty when nothing was."""
    try:
        services: dict[str, Any] = json.loads(SERVICES.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return services
