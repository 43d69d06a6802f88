"""The trainer's side of requests: look, agree, write the journal, switch.

    rank 0 looks at requests/ ──flag in the step's all-reduce──▶ all ranks at the step boundary:
      rank 0: request + plan ─▶ new plan ──broadcast──▶ every rank looks for the new shards
      all found? ─▶ rank 0 writes the journal ─▶ every rank switches ─▶ rank 0 removes the request
      one did not? ─▶ rank 0 refuses the request; nothing changed

Where no request lies, a step costs one listing of a folder on rank 0 and no communication.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from common.errors import DataError, SteelError
from model.data import PackedManifest
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext
from model.train.run.journal import AppendEntry
from model.train.run.lease import Lease
from model.train.run.length import TrainingLength
from model.train.run.plan import RunPlan
from model.train.run.requests import PendingRequest, ProfileRequest, RequestFolder

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class FixedLength:
    """In place of a `RequestHandler`: a run whose data and length are what they were."""

    length: TrainingLength

    def due(self, step: int) -> bool:
        """Nothing is asked for."""
        return False

    def apply(self, step: int, consumed: int) -> bool:
        """Nothing changes."""
        return False

    def save_manifests(self) -> None:
        """There is none."""


class RequestHandler:
    """Handles requests to a run. Every method but `due` is called by all ranks together.

    Args:
        lease: of the folder that the run writes to.
        ranks: these ranks.
        settings, base: the run's settings and first data.

    Raises as RunPlan.read does, on every rank.
    """

    def __init__(
        self,
        lease: Lease,
        ranks: DistributedContext,
        settings: PretrainSettings,
        base: PackedManifest,
    ) -> None:
        run = lease.run
        self.lease = lease
        self.ranks = ranks
        self.requests = RequestFolder(run)
        self.profile: Callable[[int, int], None] = lambda step, num_steps: None
        """Traces so many steps after so many completed ones; the trainer's."""
        self.plan = self._from_main(lambda: RunPlan.read(run, settings, base))

    @property
    def length(self) -> TrainingLength:
        """The run's steps, as known now."""
        return self.plan.length

    def save_manifests(self) -> None:
        """Copy the manifests of the data into the run's folder, on rank 0."""
        if self.ranks.is_main:
            self.plan.save_manifests(self.lease)

    def due(self, step: int) -> bool:
        """Return True on rank 0 if a request is to be done after `step` steps."""
        return self.ranks.is_main and bool(self._due(step))

    def apply(self, step: int, consumed: int) -> bool:
        """Do what is due after `step` steps and `consumed` samples; True if the plan changed."""
        changed = False
        for pending in self._from_main(lambda: self._due(step)):
            changed |= self._apply(pending, step, consumed)
        return changed

    def _apply(self, pending: PendingRequest, step: int, consumed: int) -> bool:
        if pending.request is None:
            self._refuse(pending.name, pending.problem)
            return False
        # The trainer was killed before it could remove the request.
        if any(entry.request == pending.name for entry in self.plan.entries):
            self._remove(pending.name)
            return False
        request = pending.request
        if isinstance(request, ProfileRequest):
            self.profile(step, request.num_steps)
            self._remove(pending.name)
            return False
        try:
            plan = self._from_main(
                lambda: self.plan.apply(pending.name, request, step=step, consumed=consumed)
            )
        except SteelError as error:
            self._refuse(pending.name, str(error))
            return False
        problems = self.ranks.gather(_missing_shard(plan))
        # No rank goes on before it knows that the journal is on the disk.
        problems.append("" if any(problems) else self._from_main(lambda: self._write(plan)))
        if problem := next(filter(None, problems), ""):
            self._refuse(pending.name, problem)
            return False
        self.plan = plan
        self._remove(pending.name)
        if self.ranks.is_main:
            entry = plan.entries[-1]
            what = "the length changed"
            if isinstance(entry, AppendEntry):
                what = f"data {entry.data.manifest.digest} joined (steps: {entry.steps})"
            log.info(
                "step %d (%d samples): %s; the run ends at step %d",
                step,
                consumed,
                what,
                entry.length.total_steps,
            )
        return True

    def _due(self, step: int) -> list[PendingRequest]:
        try:
            pending = self.requests.pending()
        except OSError as error:
            log.warning("requests cannot be read now: %s", error)
            return []
        return [p for p in pending if p.request is None or self.plan.is_due(p.request, step)]

    def _write(self, plan: RunPlan) -> str:
        """Write the journal; return the problem, or ""."""
        try:
            plan.write(self.lease)
        except OSError as error:
            return f"the change could not be written to {self.lease.run}: {error}"
        return ""

    def _refuse(self, name: str, reason: str) -> None:
        if self.ranks.is_main:
            log.warning("request %s is refused: %s", name, reason)
            with _tolerated():
                self.requests.refuse(name, reason, self.lease)

    def _remove(self, name: str) -> None:
        if self.ranks.is_main:
            with _tolerated():
                self.requests.remove(name, self.lease)

    def _from_main(self, make: Callable[[], T]) -> T:
        return from_main(self.ranks, make)


def from_main(ranks: DistributedContext, make: Callable[[], T]) -> T:
    """A value of rank 0 on every rank; its errors for users are raised on every rank."""
    made: T | SteelError | None = None
    if ranks.is_main:
        try:
            made = make()
        except SteelError as error:
            made = error
        except OSError as error:
            made = DataError(f"a file of the run cannot be read: {error}")
    made = ranks.gather(made)[0]
    if isinstance(made, SteelError):
        raise made
    assert made is not None
    return made


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Log an error of the file system: a request's file is no reason to end a training."""
    try:
        yield
    except OSError as error:
        log.warning("a request's file stays where it is: %s", error)


def _missing_shard(plan: RunPlan) -> str:
    """Name an appended shard that this rank does not see whole; "" when it sees all.

    Their MD5s are compared at first use.
    """
    for append in plan.appends:
        manifest = append.manifest
        assert manifest.folder is not None
        for shard in manifest.shards:
            path = manifest.folder / shard.name
            try:
                size = path.stat().st_size
            except OSError as error:
                return f"shard {path} of the appended data cannot be read: {error}"
            if size != shard.num_bytes:
                return f"shard {path} has {size} bytes, its manifest says {shard.num_bytes}"
    return ""
