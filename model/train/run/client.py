"""The client of a running or stopped training: check a request against the run, then publish it.

    run folder ─▶ RunClient: plan, steps done, pending requests
    append, reschedule, profile: done already? pending? possible? ─▶ RUN/requests/….json

Nothing here writes the journal: only the run's own rank 0 does (model/train/run/handler.py). A
request that is made twice is published once, and the result says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from common.config import from_json
from common.errors import ConfigError, DataError, SteelError
from model.data import PackedManifest
from model.data.append import check_new_content, shards_by_content
from model.data.manifest import FILE_NAME, find_manifest
from model.data.verify.shards import verify_shards
from model.train.checkpoint.folders import complete_checkpoints
from model.train.config import PretrainJob, PretrainSettings
from model.train.run.folder import CHECKPOINTS_FOLDER, JOB_FILE, METRICS_FILE, REQUESTS_FOLDER
from model.train.run.length import LengthPolicy
from model.train.run.metrics import newest_step
from model.train.run.plan import RunPlan
from model.train.run.requests import (
    AppendRequest,
    ProfileRequest,
    Request,
    RequestFolder,
    RescheduleRequest,
)


@dataclass(frozen=True, kw_only=True)
class RequestResult:
    """State of a request after the client was called."""

    status: Literal["requested", "pending", "done"]
    """Published now; published before and not done yet; done before."""
    request: str
    """Name of the request."""
    step: int | None
    """Step at which it was done, or is to be; None: at the next step boundary."""
    total_steps: int
    """Steps of the whole run with it."""
    num_samples: int = 0
    """Samples that the appended data add to the run."""
    num_tokens: int = 0
    """Tokens in the appended data."""


class RunClient:
    """Requests to one run, from outside of its processes.

    Args:
        folder: of the run; may be empty.
        settings, base: the run's settings and first data.
        running: the trainer works now; its checkpoints alone then lag behind.

    Raises DataError when the run's data or journal are damaged or missing.
    """

    def __init__(
        self, folder: Path, settings: PretrainSettings, base: PackedManifest, *, running: bool
    ) -> None:
        checkpoints = complete_checkpoints(folder / CHECKPOINTS_FOLDER)
        saved = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
        measured = newest_step(folder / METRICS_FILE) if running else 0
        self.folder = folder
        self.plan = RunPlan.read(folder, settings, base)
        self.requests = RequestFolder(folder)
        self.done = max(saved, measured)
        """Steps that certainly lie behind: of the newest complete checkpoint, or measured by a run
        that is going on."""
        # The boundary after the step that was measured last may be over.
        self.first_free = max(saved, measured + 1 if measured else 0)
        """First step at which something can still be requested."""

    @classmethod
    def open(cls, folder: Path, *, running: bool) -> Self:
        """The client of the run in a folder. Raises DataError when none has begun there."""
        path = folder / JOB_FILE
        if not path.is_file():
            raise DataError(
                f"{folder} holds no pretraining that has begun (it has no {JOB_FILE}); wait for "
                "its first step, or name the folder of another run"
            )
        job = from_json(PretrainJob, path)
        base = PackedManifest.read(Path(job.packed) / "shards")
        return cls(folder, job.settings, base, running=running)

    def append(
        self,
        data: Path,
        *,
        at_step: int | None = None,
        weights: Mapping[str, float] | None = None,
        seed: int | None = None,
        steps: LengthPolicy | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> RequestResult:
        """Request to train on more data.

        Args:
            data: finished stage folder of `pack`, folder of shards, or their manifest.json.
            at_step: completed steps at which they join; None: at the next step boundary, or when a
                stopped run goes on.
            weights: epochs per source of the new data; 1 where not named.
            seed: of the order from there on; None: the run's own.
            steps: "keep" (the default) or "extend" the run's number of steps.
            progress: called with (bytes checked, bytes in all).

        Raises:
            ConfigError, DataError: it cannot be done, was done otherwise, or the data are damaged
                or in the run already; names the shards.
        """
        manifest = PackedManifest.read(find_manifest(data))
        assert manifest.folder is not None
        given = {"at_step": at_step, "weights": weights, "seed": seed, "steps": steps}
        wanted = {name: value for name, value in given.items() if value is not None}
        if result := self._earlier_append(manifest, wanted):
            return result
        request = AppendRequest(
            folder=str(manifest.folder.resolve()),
            manifest=manifest.digest,
            seed=self.plan.settings.seed if seed is None else seed,
            weights=dict(weights or {}),
            steps=steps or "keep",
            at_step=at_step,
        )
        if at_step is not None and at_step < self.first_free:
            raise ConfigError(
                f"at-step = {at_step} lies in the past: the run has done {self.done} steps; give "
                f"{self.first_free} or more, or leave it out to append at once"
            )
        # Predicting finds what is in the plan; a request for a later step is not in it yet.
        check_new_content(manifest, self._requested_content())
        plan = self.predict(("new", request))
        if faults := verify_shards(manifest, progress=progress):
            raise DataError("; ".join(faults))
        before = self.predict()
        return RequestResult(
            status="requested",
            request=self.requests.publish(request),
            step=at_step,
            total_steps=plan.length.total_steps,
            num_samples=plan.order.num_samples - before.order.num_samples,
            num_tokens=sum(manifest.tokens_by_source("train").values()),
        )

    def reschedule(
        self, *, steps: int | None = None, decay_at: int | Literal["now"] | None = None
    ) -> RequestResult:
        """Request another number of steps, or that the learning rate decays from a step on.

        Args:
            steps: of the whole run.
            decay_at: step (0-based) from which the rate falls to its minimum at the end.

        Raises:
            ConfigError: neither is given, or it cannot be done.
        """
        if steps is None and decay_at is None:
            raise ConfigError("nothing is asked for: give --steps or --decay-at")
        request = RescheduleRequest(steps=steps, decay_at=decay_at)
        length = self.plan.length
        waiting = [p for p in self.requests.pending() if _changes_length(p.request)]
        decays = length.decay_at is not None and decay_at == "now" and length.decay_at <= self.done
        holds = steps in (None, length.total_steps)
        holds = holds and (decays or decay_at in (None, length.decay_at))
        if holds and not waiting:
            last = self.plan.entries[-1] if self.plan.entries else None
            return RequestResult(
                status="done",
                request=last.request if last else "",
                step=last.length.step if last else 0,
                total_steps=length.total_steps,
            )
        if waiting and waiting[-1].request == request:
            total = self.predict().length.total_steps
            return RequestResult(
                status="pending", request=waiting[-1].name, step=None, total_steps=total
            )
        total = self.predict(("new", request)).length.total_steps
        name = self.requests.publish(request)
        return RequestResult(status="requested", request=name, step=None, total_steps=total)

    def profile(self, num_steps: int) -> RequestResult:
        """Request a trace of the next steps. Raises ConfigError."""
        if num_steps < 1:
            raise ConfigError(f"--steps {num_steps}: give 1 or more")
        name = self.requests.publish(ProfileRequest(num_steps=num_steps))
        total = self.plan.length.total_steps
        return RequestResult(status="requested", request=name, step=None, total_steps=total)

    def predict(self, *more: tuple[str, Request]) -> RunPlan:
        """The plan after all pending requests and `more`, at the steps that they name.

        Requests that the trainer will refuse are left out. Raises the refusal of one of `more`.
        """
        plan, own = self.plan, {name for name, _ in more}
        pending = [(p.name, p.request) for p in self.requests.pending() if p.request is not None]
        waiting = [*pending, *more]
        while waiting:
            soon = max(self.done, plan.last_step)
            steps = [soon if r.at_step is None else r.at_step for _, r in waiting]
            first = min(range(len(waiting)), key=steps.__getitem__)
            (name, request), step = waiting.pop(first), steps[first]
            try:
                plan = plan.apply(name, request, step=step, consumed=_consumed(plan, step))
            except SteelError:
                if name in own:
                    raise
        return plan

    def _earlier_append(
        self, manifest: PackedManifest, wanted: Mapping[str, Any]
    ) -> RequestResult | None:
        """The result when these very data were requested or joined already; None otherwise.

        Raises DataError when that was done in another way than wanted.
        """
        pending = [
            (p.name, asdict(p.request))
            for p in self.requests.pending()
            if isinstance(p.request, AppendRequest)
        ]
        done = [
            (entry.request, {**entry.to_dict(), "at_step": entry.length.step})
            for entry in self.plan.append_entries
        ]
        for number, (name, found) in enumerate([*pending, *done]):
            if found["manifest"] != manifest.digest:
                continue
            waits = number < len(pending)
            if different := [key for key, value in wanted.items() if value != found[key]]:
                key = different[0]
                what = f"{key} = {found[key]!r}, not {wanted[key]!r}"
                raise DataError(
                    f"the data in {manifest.folder} are requested already with {what}; to request "
                    f"them anew, remove {name} from the run's {REQUESTS_FOLDER}/"
                    if waits
                    else f"the data in {manifest.folder} joined this run with {what}: what was "
                    "trained on stays; move the end with `steel reschedule`"
                )
            return RequestResult(
                status="pending" if waits else "done",
                request=name,
                step=found["at_step"],
                total_steps=(self.predict() if waits else self.plan).length.total_steps,
                num_tokens=sum(manifest.tokens_by_source("train").values()),
            )
        return None

    def _requested_content(self) -> dict[str, tuple[str, str]]:
        """Shards of pending requests, as far as they are still there."""
        content: dict[str, tuple[str, str]] = {}
        for pending in self.requests.pending():
            if isinstance(pending.request, AppendRequest):
                folder = Path(pending.request.folder)
                if (folder / FILE_NAME).is_file():
                    manifest = PackedManifest.read(folder)
                    content |= shards_by_content(manifest, f"the data requested ({folder})")
        return content


def _changes_length(request: Request | None) -> bool:
    extends = isinstance(request, AppendRequest) and request.steps == "extend"
    return extends or isinstance(request, RescheduleRequest)


def _consumed(plan: RunPlan, step: int) -> int:
    """Samples after `step` steps; at least this many, for batches may have been skipped."""
    size = plan.settings.global_batch_size
    if not plan.append_entries:
        return step * size
    last = plan.append_entries[-1]
    return max(step * size, last.data.at + (step - last.length.step) * size)
