"""The state of this machine now (`steel status`): services, runs, GPUs, the last results, disk.

Trainings and their steps come from the store, so that they are seen without a server too; flow
runs, and those that wait, from the Prefect server where one answers.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.disk import format_bytes, nearest_existing
from flows.environment import PREFECT_PORT, listening, prefect_api, request, running_services

NEWEST = 3
"""Results that are shown."""
SECONDS = 3.0
"""Longest wait for a server or for nvidia-smi."""
WAITING = ("SCHEDULED", "PENDING", "PAUSED")


def status(store: Path) -> dict[str, Any]:
    """Everything `steel status` shows, as JSON values."""
    from common.processes import still_runs
    from tasks.core.results.entries import entries

    everything = entries(store) if store.is_dir() else []
    running = [entry for entry in everything if entry.state == "running"]
    finished = [entry for entry in everything if entry.state == "finished"]
    url = prefect_api()
    flows = flow_runs(url) if "PREFECT_API_URL" in os.environ or listening(PREFECT_PORT) else []
    usage = shutil.disk_usage(nearest_existing(store))
    return {
        "services": [
            {"name": name, "pid": s["pid"], "runs": still_runs(s)}
            for name, s in running_services().items()
        ],
        "running": [_running(entry) for entry in running],
        "flow_runs": [run for run in flows if not run["for"]],
        "waiting": [run for run in flows if run["for"]],
        "gpus": list(gpus()),
        "finished": [
            {
                "stage": entry.stage,
                "key": entry.key,
                "name": entry.title or entry.label,
                "at": time.strftime("%F %T", time.localtime(entry.at)),
            }
            for entry in finished[-NEWEST:]
        ],
        "disk": {"free": usage.free, "total": usage.total},
    }


def _running(entry: Any) -> dict[str, Any]:
    """A stage that a process works on."""
    from tasks.core.results.progress import told_progress, training_position

    position, told = training_position(entry), told_progress(entry)
    started = entry.about.get("started")
    return {
        "stage": entry.stage,
        "key": entry.key,
        "name": entry.label,
        "seconds": round(time.time() - started) if isinstance(started, int | float) else None,
        "percent": round(100 * told["done"] / told["total"]) if told else None,
        "step": position.step if position else None,
        "steps": position.steps if position else None,
        "loss": position.loss if position else None,
        "seconds_left": position.seconds_left if position else None,
    }


def flow_runs(url: str) -> list[dict[str, Any]]:
    """Flow runs of a Prefect server that run, or wait, and for what; none where none answers."""
    kinds = {"state": {"type": {"any_": ["RUNNING", *WAITING]}}}
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
    body = {
        "flow_runs": {**kinds, "expected_start_time": {"before_": soon}},
        "limit": 50,
        "sort": "EXPECTED_START_TIME_ASC",
    }
    try:
        rows = request(f"{url.rstrip('/')}/flow_runs/filter", body, seconds=SECONDS)
    except (OSError, ValueError):
        return []
    return [
        {
            "name": row["name"],
            "id": row["id"],
            "state": row["state_type"],
            "since": row.get("start_time") or row.get("expected_start_time"),
            "for": _waits_for(row),
        }
        for row in rows
    ]


def _waits_for(row: dict[str, Any]) -> str:
    """The thing that a run waits for, in words; empty for one that runs and says nothing."""
    state = row.get("state") or {}
    message, name = state.get("message") or "", state.get("name") or ""
    if row["state_type"] == "RUNNING" and name != "Waiting":  # `Waiting` is of this type, too
        return ""
    if message:
        return str(message)
    words = {
        "Scheduled": f"its time, {row.get('expected_start_time') or 'not known'}",
        "Late": "a worker: start one with `make up`",
        "AwaitingConcurrencySlot": "a free place: another run has the GPUs",
        "AwaitingRetry": f"its retry, {row.get('expected_start_time') or 'soon'}",
        "Pending": "a worker that starts it",
        "Suspended": "someone who resumes it",
        "Paused": "someone who resumes it",
    }
    return words.get(name, name)


def gpus() -> Iterator[dict[str, Any]]:
    """Use of each NVIDIA GPU."""
    if (program := shutil.which("nvidia-smi")) is None:
        return
    fields = ("index", "name", "utilization.gpu", "memory.used", "memory.total")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        for line in done.stdout.splitlines():
            yield dict(zip(fields, [cell.strip() for cell in line.split(",")], strict=False))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for a person."""
    from tasks.core.results.progress import Position, duration

    shown = [f"{s['name']}{'' if s['runs'] else ' (ended!)'}" for s in found["services"]]
    yield f"services  {', '.join(shown) or 'none; `make up` starts them'}"
    for one in found["running"]:
        name = f"{one['stage']} {one['name']}".strip()
        since = f", for {duration(one['seconds'])}" if one["seconds"] is not None else ""
        where = ""
        if one["step"] is not None:
            at = {"step": one["step"], "steps": one["steps"], "loss": one["loss"], "at": 0.0}
            where = ": " + Position(**at, seconds_left=one["seconds_left"]).words
        elif one["percent"] is not None:
            where = f": {one['percent']} %"
        yield f"running   {name} ({one['key'][:8]}){where}{since}"
    for run in found["flow_runs"]:
        yield f"flow run  {run['name']}, since {_minute(run['since'])}"
    if not (found["running"] or found["flow_runs"]):
        yield "running   nothing"
    for run in found["waiting"]:
        yield f"waiting   {run['name']}: {run['for']}"
    for gpu in found["gpus"]:
        used = f"{gpu['memory.used']} of {gpu['memory.total']} MiB"
        yield f"GPU {gpu['index']}     {gpu['name']}: {gpu['utilization.gpu']} %, {used}"
    for one in found["finished"]:
        name = f"{one['stage']} {one['name']}".strip()
        yield f"finished  {name} ({one['key'][:8]}), {one['at']}"
    free, total = found["disk"]["free"], found["disk"]["total"]
    yield f"disk      {format_bytes(free)} free of {format_bytes(total)}"


def _minute(text: str | None) -> str:
    return (text or "")[:16].replace("T", " ")
