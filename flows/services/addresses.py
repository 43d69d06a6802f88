"""Servers that are used: those of this machine, or the ones that the environment names.

    PREFECT_API_URL            a Prefect server elsewhere; none is started here then
    MLFLOW_TRACKING_URI        http(s)://…: an MLflow server elsewhere; none is started here then.
                               A database (postgresql://…, sqlite:///…): served by the one here
    MLFLOW_BACKEND_STORE_URI   the same, in the name that `mlflow server` reads
    MLFLOW_REGISTRY_URI        where models are registered, if elsewhere
    MLFLOW_ARTIFACTS_DESTINATION
                               s3://bucket/path: the server here keeps artifacts there, for clients
                               that have no credentials of their own
    MLFLOW_DEFAULT_ARTIFACT_ROOT
                               s3://bucket/path: clients write there themselves
    STEEL_MLFLOW_PAGE, PREFECT_UI_URL
                               where a browser reaches the two, if elsewhere than programs do
    MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   of that bucket

They stay in the environment: command lines are seen by everybody on a machine.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from common.child import python
from common.redaction import redact
from flows.environment import HOST, MLFLOW_PORT, MLFLOW_URI, PREFECT_API, prefect_api


def service_environment(store: Path) -> dict[str, str]:
    """Environment of the services: the user's, with what it leaves open.

    Without a database of the user's, MLflow's is made in `store`, and its artifacts beside it.
    """
    environment = {
        **os.environ,
        "PREFECT_API_URL": prefect_api(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.setdefault("PREFECT_UI_URL", environment["PREFECT_API_URL"].removesuffix("/api"))
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if is_server(given) and not same_place(given, MLFLOW_URI):
        return environment
    folder = store / "mlflow"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    database = "" if is_server(given) else given
    environment["MLFLOW_TRACKING_URI"] = MLFLOW_URI
    if database or not environment.get("MLFLOW_BACKEND_STORE_URI"):
        database = database or f"sqlite:///{folder / 'mlflow.db'}"
        environment["MLFLOW_BACKEND_STORE_URI"] = database
    # `mlflow server` would look for the registry in the place that clients look for it.
    if not environment.get("MLFLOW_ARTIFACTS_DESTINATION"):
        environment.setdefault("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(folder / "artifacts"))
    return environment


def mlflow_command(environment: Mapping[str, str]) -> list[str]:
    """Command that starts MLflow's server; its database and storage are in the environment."""
    proxied = bool(environment.get("MLFLOW_ARTIFACTS_DESTINATION"))
    return python(
        "mlflow",
        "server",
        f"--host={HOST}",
        f"--port={MLFLOW_PORT}",
        "--workers=1",
        "--serve-artifacts" if proxied else "--no-serve-artifacts",
    )


def is_ours(environment: Mapping[str, str]) -> bool:
    """True if the Prefect server of an environment is the one of this machine."""
    return same_place(environment["PREFECT_API_URL"], PREFECT_API)


def serves_mlflow(environment: Mapping[str, str]) -> bool:
    """True if the MLflow server of an environment is the one of this machine."""
    return same_place(environment["MLFLOW_TRACKING_URI"], MLFLOW_URI)


def is_server(uri: str) -> bool:
    """True for the address of an MLflow server; False for a database, a folder or nothing."""
    return uri.startswith(("http://", "https://"))


def same_place(one: str, other: str) -> bool:
    """True if two addresses name the same port of the same machine."""
    places = []
    for address in (one, other):
        parts = urlsplit(address)
        loopback = parts.hostname in ("localhost", "::1", HOST)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        places.append((HOST if loopback else parts.hostname, port))
    return places[0] == places[1]


def mlflow_page(uri: str | None = None) -> str:
    """Address of MLflow's pages, for a browser: the user's server, else the one of `make up`.

    uri: the tracking URI; of the environment by default.
    """
    if page := os.environ.get("STEEL_MLFLOW_PAGE"):
        return page.rstrip("/")
    given = os.environ.get("MLFLOW_TRACKING_URI", "") if uri is None else uri
    return given.rstrip("/") if is_server(given) else MLFLOW_URI


def comparison_page(store: Path, *views: str) -> str:
    """Address of the page that compares models: the first of some saved views that is there, or all
    of them.

    The page is MLflow's first one where there is nothing to compare yet.
    """
    from tasks.core.tracking import MODELS, default_uri, experiment_links

    path = experiment_links(default_uri(store), *views).get(MODELS, "")
    return f"{redact(mlflow_page())}/{path}"


def prefect_page() -> str:
    """Address of Prefect's pages, for a browser: the user's server, else the one of `make up`."""
    if page := os.environ.get("PREFECT_UI_URL"):
        return page.rstrip("/")
    return prefect_api().rstrip("/").removesuffix("/api")
