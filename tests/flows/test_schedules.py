"""A deployment's schedule makes flow runs, with the versions of requirements.lock.

With SQLAlchemy 2.1 the server of Prefect 3.8 accepts a schedule and never makes a run of it.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

PREFECT = (sys.executable, "-m", "prefect")
DEADLINE_SECONDS = 180
"""For starting the server and for the scheduler's next look, on a busy machine."""


@flow
def nightly() -> None:
    """A flow that is scheduled, and run by nobody."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    """Address of a server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port],
            env=os.environ | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait()


def test_a_schedule_makes_flow_runs(api: str) -> None:
    with temporary_settings({PREFECT_API_URL: api}):
        names = asyncio.run(_first_scheduled_runs())
    assert names == {"Scheduled"}


async def _first_scheduled_runs() -> set[str]:
    """Create a deployment with a schedule; the states of the runs that the server makes of it."""
    async with get_client() as client, asyncio.timeout(DEADLINE_SECONDS):
        while await client.api_healthcheck() is not None:
            await asyncio.sleep(1)
        deployment = await client.create_deployment(
            flow_id=await client.create_flow(nightly),
            name="nightly",
            schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * *"))],
        )
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        while not (runs := await client.read_flow_runs(deployment_filter=of_it)):
            await asyncio.sleep(1)
        return {run.state_name or "" for run in runs}
