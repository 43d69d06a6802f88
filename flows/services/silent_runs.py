"""An automation of Prefect's server: a run that gives no sign of life any more is Crashed.

A run's process sends a heartbeat every `HEARTBEAT_SECONDS`. After one, another or the run's end has
to come within `SILENT_SECONDS`. A run that lives on (its server was away, it was stopped for a
while) corrects its state itself: flows/runs/own_state.py. docs/adr/0075
"""

from datetime import timedelta

from flows.environment import request
from flows.runs.own_state import MISSED

NAME = "steel: a run that gives no sign of life is Crashed"
SILENT_SECONDS = 95
"""Three heartbeats and a bit."""
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def register(url: str) -> bool:
    """Make the automation where there is none of its name; returns True if it was made.

    One that a user has changed or switched off stays as it is.

    Raises OSError or ValueError when the server does not take it.
    """
    named = {"automations": {"name": {"any_": [NAME]}}}
    if request(f"{url}/automations/filter", named):
        return False
    # Two seconds of imports, once.
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    beat = "prefect.flow-run.heartbeat"
    automation = AutomationCore(
        name=NAME,
        description="Registered by `make up`. It may be switched off; it is not switched on again.",
        trigger=EventTrigger(
            after={beat},
            expect={beat, *(f"prefect.flow-run.{end}" for end in ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"{MISSED} for {SILENT_SECONDS} s; start it again, and it goes on.",
            )
        ],
    )
    request(f"{url}/automations/", automation.model_dump(mode="json"))
    return True
