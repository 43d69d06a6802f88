"""Ports, and the Prefect and MLflow servers: reachable, and of the client's version."""

import contextlib
import json
import os
import urllib.error
from collections.abc import Callable, Iterator
from importlib import metadata

import psutil

from common.redaction import redact
from flows.doctor.finding import Finding, ok, problem
from flows.environment import (
    MLFLOW_PORT,
    MLFLOW_URI,
    PREFECT_API,
    PREFECT_PORT,
    fetch,
    listening,
    request,
    running_services,
)

SECONDS = 4.0
"""Longest wait for an answer."""


def findings() -> Iterator[Finding]:
    """Findings about services."""
    yield from _ports()
    yield from _servers()


def _ports() -> Iterator[Finding]:
    own = {service["pid"] for service in running_services().values()}
    for name, port in (("prefect", PREFECT_PORT), ("mlflow", MLFLOW_PORT)):
        if not listening(port):
            if name in running_services():
                yield problem(
                    "services",
                    f"{name} was started by `make up` and does not listen on port {port}",
                    f"make down && make up   (log: .steel/logs/{name}.log)",
                )
            else:
                yield ok("services", f"port {port} ({name}) is free; `make up` starts the services")
            continue
        owner = port_owner(port)
        if owner is not None and _is_below(owner, own):
            yield ok("services", f"port {port}: {name}, started by `make up`")
            continue
        who = "another program" if owner is None else f"process {owner.pid} ({_command(owner)})"
        yield problem(
            "services",
            f"port {port}, which {name} wants, is taken by {who}",
            f"stop it (kill {owner.pid if owner else 'PID'}), or export "
            f"STEEL_{name.upper()}_PORT={port + 10}",
        )


def port_owner(port: int) -> psutil.Process | None:
    """The process that listens on a port of this machine; None where that cannot be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            is_it = connection.laddr and connection.laddr.port == port
            if is_it and connection.status == psutil.CONN_LISTEN and connection.pid:
                return psutil.Process(connection.pid)
    return None


def _is_below(process: psutil.Process, pids: set[int]) -> bool:
    """True for a process of these, and for their descendants."""
    with contextlib.suppress(psutil.Error):
        return process.pid in pids or any(parent.pid in pids for parent in process.parents())
    return False


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return redact(" ".join(process.cmdline()))[:80] or process.name()
    return "unknown"


def _servers() -> Iterator[Finding]:
    prefect = os.environ.get("PREFECT_API_URL") or (PREFECT_API if listening(PREFECT_PORT) else "")
    mlflow = os.environ.get("MLFLOW_TRACKING_URI") or (MLFLOW_URI if listening(MLFLOW_PORT) else "")
    if prefect:
        yield from _versions("prefect", prefect, _prefect_version, "PREFECT_API_URL")
    if mlflow.startswith("http"):
        yield from _versions("mlflow", mlflow, _mlflow_version, "MLFLOW_TRACKING_URI")


def _versions(
    name: str, address: str, version: Callable[[str], str], variable: str
) -> Iterator[Finding]:
    """Findings about one server.

    version: asks an address for it; raises OSError (HTTPError is one) or ValueError.
    """
    client = metadata.version(name)
    given = variable in os.environ
    try:
        server = version(address)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            yield problem(
                "services",
                f"{name} at {redact(address)} refuses this user ({error.code})",
                "set its password: PREFECT_API_KEY, PREFECT_API_AUTH_STRING, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        else:
            yield problem(
                "services",
                f"{redact(address)} is no {name} server: it answers {error.code}",
                f"correct {variable}" if given else "make down && make up",
            )
        return
    except (OSError, ValueError) as error:
        yield problem(
            "services",
            f"{name} at {redact(address)} does not answer ({redact(str(error))[:100]})",
            f"start it, or unset {variable}" if given else "make down && make up",
        )
        return
    if server != client:
        yield problem(
            "services",
            f"the {name} server at {redact(address)} is {server}, this installation {client}",
            "make down && make up" if not given else f"pip install {name}=={server}, or update it",
        )
    else:
        yield ok("services", f"{name} {server} answers at {redact(address)}")


def _prefect_version(address: str) -> str:
    try:
        return str(request(f"{address.rstrip('/')}/admin/version", seconds=SECONDS))
    except json.JSONDecodeError:
        raise ValueError("it says no version") from None


def _mlflow_version(address: str) -> str:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    user, password, token = (os.environ.get(name, "") for name in names)
    basic = f"{user}:{password}" if user and password else ""
    content = fetch(
        f"{address.rstrip('/')}/version",
        bearer="" if basic else token,
        basic=basic,
        seconds=SECONDS,
    )
    text = content[:200].decode(errors="replace").strip()
    if not text[:1].isdigit():
        raise ValueError("it says no version")
    return text
