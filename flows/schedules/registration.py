"""prefect.yaml registered on a Prefect server, without what was changed there being lost.

    server ─▶ now ─┐
    prefect.yaml ──┼─▶ .steel/prefect.yaml ──prefect deploy──▶ server
    .steel/registered.json (prefect.yaml as it was registered last; written anew when all is done)

docs/adr/0070
"""

import json
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from common.errors import StageError
from common.files import write_json, write_text
from common.paths import ROOT
from common.recipes import read_yaml
from common.urls import redact
from flows.environment import STATE, request
from flows.schedules.kept import merge, server_fields, shipped_fields

FLOW = "steel"
MERGED = STATE / "prefect.yaml"
REGISTERED = STATE / "registered.json"
SECONDS = 60.0
"""Longest wait for an answer of a server that has just started."""
PAGE = 200
"""Deployments that the server is asked for at once; its own limit."""

Prefect = Callable[..., None]
"""Runs the `prefect` command with some arguments; raises SteelError where it fails."""


def register(api: str, pool: str, prefect: Prefect, source: Path = ROOT / "prefect.yaml") -> str:
    """Register the work pool and the deployments of prefect.yaml on a server.

    Args:
        api: address of its API.
        pool: name of the work pool, made where there is none.
        prefect: runs the `prefect` command against the server.
        source: the file.

    Returns what stays as it was changed there, in a sentence; empty for nothing.

    Raises StageError where the server does not take them.
    """
    try:
        return _register(api, pool, prefect, source)
    except (OSError, ValueError) as error:
        raise StageError(
            f"the deployments could not be registered at {redact(api)}: {error}"
        ) from error


def _register(api: str, pool: str, prefect: Prefect, source: Path) -> str:
    kept = []
    found = _work_pool(api, pool)
    if found is None:
        prefect("work-pool", "create", pool, "--type", "process")
    else:
        kept += _changes_of_pool(pool, found)
    content = read_yaml(source)
    shipped = {one["name"]: shipped_fields(one) for one in content["deployments"]}
    known = _registered(api)
    now = {one["name"]: server_fields(one) for one in _deployments(api)}
    for one in content["deployments"]:
        name = one["name"]
        fields, changes = merge(shipped[name], known.get(name), now.get(name))
        pool_fields = {**one["work_pool"], "job_variables": fields.pop("job_variables")}
        one.update(fields, work_pool=pool_fields)
        if changes:
            kept.append(f"{FLOW}/{name}: {', '.join(changes)}")
    write_text(MERGED, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(MERGED))
    write_json(REGISTERED, {**_all_registered(), redact(api): shipped})
    return f"kept as you changed it: {'; '.join(kept)}" if kept else ""


def _work_pool(api: str, pool: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = request(f"{api}/work_pools/{pool}", seconds=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None
    return found


def _changes_of_pool(pool: str, found: Mapping[str, Any]) -> list[str]:
    limit = found.get("concurrency_limit")
    words = [f"limit {limit}"] if limit is not None else []
    words += ["paused"] if found.get("is_paused") else []
    return [f"work pool {pool}: {', '.join(words)}"] if words else []


def _deployments(api: str) -> list[dict[str, Any]]:
    """The deployments of the flow that the server has."""
    found: list[dict[str, Any]] = []
    while True:
        body = {"flows": {"name": {"any_": [FLOW]}}, "limit": PAGE, "offset": len(found)}
        page = request(f"{api}/deployments/filter", body, seconds=SECONDS)
        found += page
        if len(page) < PAGE:
            return found


def _registered(api: str) -> dict[str, Any]:
    """Deployment -> its fields in prefect.yaml when it was registered last."""
    found: dict[str, Any] = _all_registered().get(redact(api), {})
    return found


def _all_registered() -> dict[str, Any]:
    try:
        found = json.loads(REGISTERED.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
