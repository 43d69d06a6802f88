"""`make up` and `make down`: Prefect, MLflow and a worker on this machine, on loopback.

    Prefect server :4200 ── work pool `steel` ◀── worker ── runs deployments of prefect.yaml
    MLflow server  :5000 ── the store's database and artifacts

Each service is a process group of its own with a log in .steel/logs; .steel/services.json remembers
process numbers and start times, so that `down` never stops another process that got an old number.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common.child import python
from common.errors import SteelError
from common.files import write_json
from common.processes import process_start, still_runs
from common.redaction import install, redact
from flows.environment import (
    HOST,
    MLFLOW_PORT,
    MLFLOW_URI,
    PREFECT_API,
    PREFECT_PORT,
    ROOT,
    SERVICES,
    STATE,
    answers,
    fetch,
    listening,
    prepare,
    running_services,
)
from flows.schedules.registration import register
from flows.services import silent_runs
from flows.services.addresses import (
    comparison_page,
    is_ours,
    mlflow_command,
    mlflow_page,
    prefect_page,
    serves_mlflow,
    service_environment,
)
from flows.services.keeper import OWN as KEEPER
from flows.services.keeper import end_leftovers
from flows.services.worker import POOL, end_runs_first

START_SECONDS = 240
STOP_SECONDS = 45
log = logging.getLogger("steel.services")


def up(store: Path) -> None:
    """Start the services that are not running, wait until they answer, register the deployments.

    A Prefect or MLflow server that the user has named (`PREFECT_API_URL`, `MLFLOW_TRACKING_URI`) is
    used in the place of one of this machine.
    """
    prepare()
    STATE.mkdir(exist_ok=True)
    end_leftovers(running_services())
    services = {name: s for name, s in running_services().items() if still_runs(s)}
    environment = service_environment(store)
    commands = {
        "prefect": python("prefect", "server", "start", f"--host={HOST}", f"--port={PREFECT_PORT}"),
        "mlflow": mlflow_command(environment),
    }
    for name, ours in (("prefect", is_ours(environment)), ("mlflow", serves_mlflow(environment))):
        if not ours:
            log.info("%s: the server that the environment names is used", name)
            del commands[name]
    for name, port in (("prefect", PREFECT_PORT), ("mlflow", MLFLOW_PORT)):
        if name in commands and name not in services and listening(port):
            raise SteelError(
                f"port {port} is taken by another program. Stop it, or choose another one with "
                f"STEEL_{name.upper()}_PORT=… (and put the same address into prefect.toml)."
            )
    for name, command in commands.items():
        if name not in services:
            services[name] = _start(name, command, environment)
            _remember(services)
    if "prefect" in commands:
        _wait("prefect", services["prefect"], lambda: answers(PREFECT_API, 5))
    if "mlflow" in commands:
        _wait("mlflow", services["mlflow"], _mlflow_answers)
    register_all(environment)
    if "worker" not in services:
        start_worker(services, environment)
    if KEEPER not in services:
        command = python("flows.services.keeper", "--store", store)
        services[KEEPER] = _start(KEEPER, command, environment)
        _remember(services)


def register_all(environment: dict[str, str]) -> None:
    """Register the work pool, the deployments and the automation on an environment's server.

    A work pool that is there, of whatever type, stays as it is.
    """
    url = environment["PREFECT_API_URL"]
    log.info("register the work pool and the deployments of prefect.yaml")
    if kept := register(url, POOL, partial(_prefect, environment)):
        log.info("%s", kept)
    try:
        silent_runs.register(url)
    except (OSError, ValueError) as error:  # a server elsewhere may not allow it
        log.warning("runs without a sign of life will not be noticed by Prefect: %s", error)


def start_worker(services: dict[str, Any], environment: dict[str, str]) -> None:
    """Start a worker, and remember it among the services."""
    command = python("prefect", "worker", "start", "--pool", POOL, "--name", "steel-local")
    services["worker"] = _start("worker", command, environment)
    _remember(services)


def down() -> bool:
    """Stop the services: first the worker, after its runs have saved. Return False if none ran."""
    end_leftovers(running_services())
    services = {name: s for name, s in running_services().items() if still_runs(s)}
    for name in (KEEPER, "worker", "mlflow", "prefect"):
        if name in services:
            log.info("stop %s", name)
            if name == "worker":
                pid = services[name]["pid"]
                end_runs_first(pid, of=pid)
            stop(services[name])
    SERVICES.unlink(missing_ok=True)
    return bool(services)


def stop(service: dict[str, Any]) -> None:
    """SIGTERM to a service's process group; SIGKILL to what is left after `STOP_SECONDS`."""
    group = service["pid"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, number)
            os.killpg(group, signal.SIGCONT)  # a worker is halted while its runs end
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and still_runs(service):
            time.sleep(0.2)


def _start(name: str, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    logs = STATE / "logs"
    logs.mkdir(exist_ok=True)
    log.info("start %s (log: .steel/logs/%s.log)", name, name)
    with (logs / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell's background job ignores Ctrl-C, and so would its children: a worker that
            # ignores SIGINT ignores the first SIGTERM too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    return {"pid": process.pid, "started": process_start(process.pid), "command": command[1:]}


def _remember(services: dict[str, Any]) -> None:
    write_json(SERVICES, services)


def _wait(name: str, service: dict[str, Any], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if not still_runs(service):
            tail = (STATE / "logs" / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
            raise SteelError(f"{name} did not start:\n" + "\n".join(tail))
        if time.monotonic() > deadline:
            raise SteelError(f"{name} did not answer within {START_SECONDS} s; see .steel/logs")
        time.sleep(0.5)


def _mlflow_answers() -> bool:
    try:
        fetch(f"{MLFLOW_URI}/health", seconds=5)
    except (OSError, ValueError):
        return False
    return True


def _prefect(environment: dict[str, str], *arguments: str) -> None:
    try:
        done = subprocess.run(
            python("prefect", *arguments),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SteelError(
            f"`prefect {' '.join(arguments)}` did not end within {START_SECONDS} s; see .steel/logs"
        ) from None
    if done.returncode != 0:
        raise SteelError(f"`prefect {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    """`python -m flows.services.local up|down|register [--store DIR]`.

    `register` starts nothing: it is for a server elsewhere, which `PREFECT_API_URL` names.
    """
    install()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["up", "down", "register"])
    parser.add_argument("--store", type=Path, default=ROOT / "store")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        if arguments.action == "down":
            log.info("all stopped" if down() else "nothing was running")
            return 0
        if arguments.action == "register":
            prepare()
            STATE.mkdir(exist_ok=True)
            register_all(service_environment(arguments.store.resolve()))
            return 0
        up(arguments.store.resolve())
    except SteelError as error:
        log.error("error: %s", error)
        return 2
    log.info("")
    log.info("Prefect  %s", redact(prefect_page()))
    log.info("MLflow   %s", redact(mlflow_page()))
    log.info("Models   %s", comparison_page(arguments.store.resolve()))
    log.info("then:    .venv/bin/prefect deployment run steel/pretrain --watch")
    log.info("stop:    make down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
