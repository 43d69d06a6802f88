"""For whom a stage waits: said in the log, and as the message of the flow run's state in Prefect.

The page of a waiting run shows the state `Waiting`, of Prefect's type RUNNING: one of the type
SCHEDULED would be started a second time by a worker. Each such state counts as one more attempt in
Prefect's `run_count`, so it is sent seldom; lines of the log are not.
"""

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.devices import Others, Ticket
from common.errors import StageError
from common.files import write_status
from tasks.core.artifacts import Logger, flow_run_id
from tasks.core.patience import within

PROGRESS = Path(".scratch") / "progress.json"
"""In the folder of a stage that is being made: how far it is."""
LINE_SECONDS = 60.0
STATE_SECONDS = 600.0
PREFECT_SECONDS = 15.0


def tell_progress(folder: Path, done: float, total: float, what: str, left: float | None) -> None:
    """Write how far a stage is, for those who wait for it.

    left: seconds until it ends; None where that would be a guess.
    """
    path = folder / PROGRESS
    with contextlib.suppress(OSError):  # a full disk is told by what needs the place
        path.parent.mkdir(exist_ok=True)
        ends = None if left is None else time.time() + left
        write_status(path, {"done": done, "total": total, "what": what, "ends": ends})


def described(what: str, run: str, since: float | None, folder: str) -> str:
    """A stage that is at work, as words: what, of which run, since when, how far, until when."""
    words = what + (f" of the run {run!r}" if run else "")
    if since is not None:
        words += f", since {_clock(since)}"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        progress = json.loads((Path(folder) / PROGRESS).read_text("utf-8"))
        if progress["total"]:
            words += f", {100 * progress['done'] / progress['total']:.0f} % {progress['what']}"
        if progress["ends"] is not None:
            words += f", until about {_clock(progress['ends'])}"
    return words


def _clock(moment: float) -> str:
    then, now = time.localtime(moment), time.localtime()
    same_day = then[:3] == now[:3]
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", then)


def of_tickets(others: Others) -> str:
    """Those who have the devices that are needed, and those who wait for them longer."""
    found = [_of_ticket(ticket) for ticket in others.holders]
    found += [f"{_of_ticket(ticket)} (waits, too)" for ticket in others.ahead]
    return "; ".join(found) or "somebody who has just begun"


def _of_ticket(ticket: Ticket) -> str:
    return described(ticket.what, ticket.run, ticket.since, ticket.folder)


class Waiting:
    """Says for whom a stage waits, when that changes and then now and again.

    As a context manager it puts the flow run's state right at the end.
    """

    def __init__(self, stage: str, log: Logger) -> None:
        self.stage, self.log = stage, log
        self.began = time.monotonic()
        self.for_whom: object = None
        self._line = self._state = -float("inf")
        self._told = False

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self.began

    def say(self, for_whom: object, words: str) -> None:
        """Wait for somebody: `for_whom` is equal as long as it is the same one."""
        now = time.monotonic()
        changed, self.for_whom = for_whom != self.for_whom, for_whom
        text = f"{self.stage} waits for {words}"
        if changed or now - self._line >= LINE_SECONDS:
            self._line = now
            self.log.info("%s", text)
        if changed or now - self._state >= STATE_SECONDS:
            self._state = now
            self._told = _set_state("Waiting", text[:1].upper() + text[1:]) or self._told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.over()

    def over(self) -> None:
        """Say that it goes on, if it had to wait."""
        if self._told:
            _set_state("Running", "")
        if self.for_whom is not None:
            self.log.info("%s goes on after %.0f s of waiting", self.stage, self.seconds)


class StageWait:
    """Waits for another process that makes the same stage."""

    def __init__(self, title: str, partial: Path, log: Logger) -> None:
        self.partial = partial
        self.title = title
        self.waiting = Waiting(title, log)

    def __call__(self, owner: Mapping[str, Any]) -> None:
        """Say whom it waits for; called again and again."""
        place = f"process {owner.get('pid')} on {owner.get('host')}"
        words = described(
            f"the same {owner.get('what', 'stage')}, which {place} makes",
            "",
            owner.get("since"),
            str(self.partial),
        )
        self.waiting.say(owner.get("token"), words)

    def over(self) -> None:
        """Put the flow run's state right: it has the lock."""
        self.waiting.over()


def refuse(title: str, words: str) -> StageError:
    """The error of a stage that is not to wait."""
    return StageError(
        f"{title} would have to wait for {words}. Wait for it, stop it, or set "
        "devices.when_busy: wait"
    )


def _set_state(name: str, message: str) -> bool:
    """Give the flow run a state of the type RUNNING; returns False where there is no run, or it
    could not be told."""
    run_id = flow_run_id()
    if run_id is None:
        return False

    def call() -> None:
        from uuid import UUID

        from prefect.client.orchestration import get_client
        from prefect.client.schemas.objects import State, StateType

        with get_client(sync_client=True) as client:
            now = client.read_flow_run(UUID(run_id)).state
            if now is None or now.type != StateType.RUNNING:
                return  # cancelled meanwhile: that must stay
            state: State[Any] = State(type=StateType.RUNNING, name=name, message=message or None)
            client.set_flow_run_state(UUID(run_id), state, force=True)

    try:
        within(PREFECT_SECONDS, call)
    except Exception as error:
        logging.getLogger("steel").debug("Prefect was not told of the wait: %s", error)
        return False
    return True
