"""A connection to a Ray cluster whose workers can neither download nor install anything.

Ray's workers start with the environment given here, and run `refuse_installs` before anything else.
Our own sources lie in the scratch folder, which all nodes share.
"""

import contextlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import ConfigError, first_line
from common.paths import RECIPES, ROOT
from corpus.cleaning import offline
from corpus.cleaning.ray.plan import RayConfig
from corpus.cleaning.recipe import Recipe

CONNECT_SECONDS = 5.0

ENVIRONMENT = offline.VARIABLES | {"RAY_JOB": "1"}
"""Variables of every worker besides the run's folders. RAY_JOB: Data-Juicer's own."""


def check_address(config: RayConfig) -> None:
    """Raise ConfigError when nobody listens there, before Ray tries for a minute."""
    if config.address in ("local", "auto"):
        return
    host, _, port = config.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _no_cluster(config, error) from error


def _no_cluster(config: RayConfig, error: Exception) -> ConfigError:
    return ConfigError(
        f"No Ray cluster answers at ray.address={config.address!r} "
        f"({type(error).__name__}: {first_line(error)}). "
        "Start one with `ray start --head` (and `ray start --address=<head>:6379` on the other "
        "nodes), or set ray.address to local"
    )


def _sources(recipe: Recipe, scratch: Path) -> Path:
    """A copy of our sources and of the recipe's own operators, which every node can read."""
    folder = scratch / "sources"
    shutil.rmtree(folder, ignore_errors=True)
    for package in ("corpus", "model", "common"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    words = (RECIPES / "quality").relative_to(ROOT)
    shutil.copytree(ROOT / words, folder / words)
    for file in recipe.custom_operator_files:
        shutil.copy(file, folder / file.name)
    return folder


@contextlib.contextmanager
def cluster(
    config: RayConfig, recipe: Recipe, models: Path, scratch: Path
) -> Iterator[list[dict[str, Any]]]:
    """A connection to the cluster, whose workers can neither download nor install."""
    variables = ENVIRONMENT | {
        "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models),
        "DATA_JUICER_CACHE_HOME": str(scratch / "cache" / "data_juicer"),
        "HF_DATASETS_CACHE": str(scratch / "cache" / "datasets"),
        "PYTHONPATH": os.pathsep.join(
            [str(_sources(recipe, scratch)), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    before = dict(os.environ)
    # The driver makes the operators, and Data-Juicer reads its environment while it is imported.
    os.environ |= variables
    try:
        recipe.import_custom_operators()
        yield from _connected(config, variables)
    finally:
        os.environ.clear()
        os.environ |= before


def _connected(config: RayConfig, variables: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    with contextlib.ExitStack() as stack:
        arguments: dict[str, Any] = {"address": config.address}
        if config.address == "local":
            arguments |= _only_here(stack) | {"num_cpus": config.num_cpus or None}
        import ray

        stack.callback(ray.shutdown)
        try:
            ray.init(
                **arguments,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={
                    "env_vars": variables,
                    "worker_process_setup_hook": offline.refuse_installs,
                },
            )
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _no_cluster(config, error) from error
        yield [
            {"address": node["NodeManagerAddress"], "cpus": node["Resources"].get("CPU", 0.0)}
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ]


def _only_here(stack: contextlib.ExitStack) -> dict[str, Any]:
    """Arguments of a Ray that this machine alone can reach and that leaves no files behind."""
    if "RAY_AUTH_MODE" not in os.environ:
        # Ray would make a token and keep it in the home folder.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # On Linux Ray listens on all interfaces, whatever address it is given. As on desktop systems,
    # where it cannot form clusters, this keeps it to 127.0.0.1. Read when ray is imported.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private import ray_constants

    stack.callback(setattr, ray_constants, "ENABLE_RAY_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER)
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Ray's sockets lie in this folder, and their paths must be short.
    folder = tempfile.mkdtemp(prefix="steel-ray-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "_temp_dir": folder}
