"""Environment of every Steel process, set before Prefect and MLflow are imported.

Quiet, offline and on loopback by default; variables that the user has set are kept.
"""

import base64
import http.client
import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".steel"
"""Databases, logs and process numbers of the local services; safe to remove when they are down."""
SERVICES = STATE / "services.json"

HOST = "127.0.0.1"


def _port(name: str, default: int) -> int:
    """A port of the environment. Ends the process with one message for what is none.

    It is read on import, before any command could report it.
    """
    text = os.environ.get(name, "").strip() or str(default)
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        print(
            f"error: environment variable {name} = {text[:80]!a}; it must be a port, a "
            f"whole number in [1, 65535]; unset it for {default}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return int(text)


PREFECT_PORT = _port("STEEL_PREFECT_PORT", 4200)
MLFLOW_PORT = _port("STEEL_MLFLOW_PORT", 5000)
PREFECT_API = f"http://{HOST}:{PREFECT_PORT}/api"
MLFLOW_URI = f"http://{HOST}:{MLFLOW_PORT}"

DEFAULTS = {
    "PREFECT_HOME": str(STATE / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A first start on a busy small machine was measured at over a minute.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    # Signs of life of a run; without them one whose process is gone would stay Running.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # SQLite on a busy disk: wait for the lock rather than fail a run.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_LOGGING_LEVEL": "INFO",
    # `prefect deployment run … --watch` shows lines of the log, and not only events.
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    # A server that is gone costs its record and no time: three attempts within some ten seconds.
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_API_REQUEST_TIMEOUT": "30",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Two lines for each run that ends would bury the pipeline's own.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare() -> None:
    """Set the defaults. Call it before Prefect or MLflow is imported."""
    (STATE / "prefect").mkdir(parents=True, exist_ok=True)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def prefect_api() -> str:
    """Address of the Prefect server's API: the user's, else the one of `make up`."""
    return os.environ.get("PREFECT_API_URL") or PREFECT_API


def listening(port: int) -> bool:
    """Return True if a program accepts connections at a port of this machine's loopback."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def request(url: str, body: Any = None, *, seconds: float = 10.0) -> Any:
    """JSON that a Prefect server answers to a GET, or to a POST of a body.

    Raises OSError (which urllib's errors are) or ValueError.
    """
    data = None if body is None else json.dumps(body).encode()
    key, pair = os.environ.get("PREFECT_API_KEY"), os.environ.get("PREFECT_API_AUTH_STRING", "")
    content = fetch(url, data, bearer=key or "", basic=pair, seconds=seconds)
    return json.loads(content or b"null")


def fetch(
    url: str, data: bytes | None = None, *, bearer: str = "", basic: str = "", seconds: float = 10.0
) -> bytes:
    """The bytes that a server answers to a GET, or to a POST of JSON.

    Args:
        url: user and password in it are sent where no others are given.
        data: JSON.
        bearer, basic: a key; else `user:password`.
        seconds: longest wait.

    Raises OSError (which urllib's errors are) or ValueError, also for an answer that breaks off or
    is no HTTP.
    """
    # Clients of Prefect and MLflow take user and password from the address, too; urllib would look
    # up a host of that name.
    parts = urlsplit(url)
    userinfo, _, place = parts.netloc.rpartition("@")
    url = urlunsplit(parts._replace(netloc=place))
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if bearer:
        asked.add_header("Authorization", f"Bearer {bearer}")
    elif pair := basic or unquote(userinfo):
        asked.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    try:
        with _opener(url).open(asked, timeout=seconds) as response:
            content: bytes = response.read()
    except http.client.HTTPException as error:  # which urllib passes on, and is no OSError
        raise ConnectionError(f"no whole answer: {type(error).__name__}: {error}") from error
    return content


def answers(url: str, seconds: float) -> bool:
    """Return True if a Prefect server works at a URL; one that asks for a password does too."""
    try:
        request(f"{url}/health", seconds=seconds)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404)  # a server of another kind knows no /health
    except (OSError, ValueError):
        return False
    return True


def _opener(url: str) -> urllib.request.OpenerDirector:
    # A proxy that the environment names is none for loopback.
    local = urlsplit(url).hostname in (HOST, "localhost", "::1")
    handlers = [urllib.request.ProxyHandler({})] if local else []
    return urllib.request.build_opener(*handlers)


def running_services() -> dict[str, Any]:
    """Services that `make up` has started, by name."""
    try:
        services: dict[str, Any] = json.loads(SERVICES.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return services
