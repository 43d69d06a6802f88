"""The devices of a training on this machine: as many GPUs as it has ranks, or all cores.

docs/adr/0071
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.config import Config
from common.devices import CPU, GIVEN, Others, Ticket, WhenBusy, taken
from model.train.distributed.gpus import gpu_names, visible_devices
from tasks.core.artifacts import Logger, flow_run_id
from tasks.core.waiting.words import Waiting, of_tickets, refuse

if TYPE_CHECKING:
    from tasks.core.stage import StageRun


@dataclass(frozen=True, kw_only=True)
class DevicesConfig(Config):
    """GPUs, or without any the cores, of the machine: given to one training at a time."""

    when_busy: WhenBusy = "wait"
    """For a training, or an evaluation, while another one has the GPUs that it needs (on a
    machine without any: the cores): `wait` until they are free, first come, first served; `refuse`:
    end with an error; `share`: begin all the same."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Devices that a launch may use now."""

    env: dict[str, str] = field(default_factory=dict)
    """Additions to its environment."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the child that is to hold them, too."""


@contextmanager
def devices_for(run: "StageRun", num_processes: int) -> Iterator[Given]:
    """Hold the devices for so many ranks for the length of the block, waiting for them if need be.

    run: the stage; its `when_busy` decides, its `waited` counts the seconds.

    Raises StageError where they are taken and are not to be waited for.
    """
    names = gpu_names()
    ticket = Ticket(what=run.stage, run=_flow_run_name(), folder=str(run.folder.resolve()))
    with ExitStack() as held:
        with Waiting(run.stage, run.log) as waiting:

            def wait(others: Others) -> None:
                run.check_lock()
                whom = [(t.pid, t.since) for t in (*others.holders, *others.ahead)]
                waiting.say(whom, of_tickets(others))

            claim = held.enter_context(
                taken(
                    names or [CPU],
                    num_processes if names else 1,
                    ticket,
                    when_busy=run.when_busy,
                    waiting=wait,
                    refused=lambda others: refuse(run.stage, of_tickets(others)),
                )
            )
        if waiting.for_whom is not None:
            run.waited += waiting.seconds
        if claim is None:
            yield Given()
            return
        env = {}
        if names and len(claim.names) < len(names):
            env["CUDA_VISIBLE_DEVICES"] = visible_devices([names.index(n) for n in claim.names])
        yield Given(env=env, options={"pass_fds": claim.files})


@contextmanager
def cores_for_children(what: str, log: Logger, when_busy: WhenBusy) -> Iterator[Given]:
    """Hold all cores for several trainings at once, children of this process, which share them.

    Raises StageError where they are taken and are not to be waited for.
    """
    with ExitStack() as held:
        with Waiting(what, log) as waiting:
            claim = held.enter_context(
                taken(
                    [CPU],
                    1,
                    Ticket(what=what, run=_flow_run_name()),
                    when_busy=when_busy,
                    waiting=lambda others: waiting.say(others, of_tickets(others)),
                    refused=lambda others: refuse(what, of_tickets(others)),
                )
            )
        if claim is None:
            yield Given()
        else:
            yield Given(env={GIVEN: CPU}, options={"pass_fds": claim.files})


def _flow_run_name() -> str:
    if flow_run_id() is None:
        return ""
    from prefect.runtime import flow_run

    return str(flow_run.name or "")
