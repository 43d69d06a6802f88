"""The asking side of requests: check everything against the run, then publish one file.

    run folder ─▶ RunState: settings, first data, changes so far, steps done, what others asked for
    append, move_end: done already? asked for already? possible? ─▶ RUN/requests/….json ─▶ Answer

Nothing here writes a journal: only the run's own rank 0 does (model/train/run/handler.py). What is
asked twice is asked once, and the answer says so.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from common.config import from_json
from common.errors import ConfigError, DataError, SteelError
from model.data import PackedManifest
from model.data.verify.shards import verify_shards
from model.train.checkpoint.reader import complete_checkpoints
from model.train.config import PretrainJob, PretrainSettings
from model.train.run.plan import Changes
from model.train.run.folder import CHECKPOINTS_FOLDER, JOB_FILE, METRICS_FILE
from model.train.run.length import Policy
from model.train.run.metrics import newest_step
from model.train.run.requests import AppendRequest, HorizonRequest, Pending, Request, RequestFolder


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of asking."""

    status: Literal["requested", "pending", "done"]
    """Asked for now; asked for before and not done yet; done before."""
    request: str
    """Name of the request."""
    step: int | None
    """Step at which it was done, or is to be; None: at the next step boundary."""
    total_steps: int
    """Where the run ends with it."""
    num_samples: int = 0
    """Samples that the appended data add to the run."""
    num_tokens: int = 0
    """Tokens in the appended data."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A pretraining run as it can be known from outside."""

    folder: Path
    changes: Changes
    done: int
    """Steps that certainly lie behind: of the newest complete checkpoint, or measured by a run that
    is going on."""
    first_free: int
    """First step at which something can still be asked for."""

    @classmethod
    def read(cls, folder: Path, *, running: bool) -> Self:
        """The run in a folder.

        running: whether its trainer works now; its checkpoints alone then lag behind.

        Raises:
            DataError: no run has begun there, or its data or journals are damaged or missing.
        """
        path = folder / JOB_FILE
        if not path.is_file():
            raise DataError(
                f"{folder} holds no pretraining that has begun (it has no {JOB_FILE}); wait for "
                "its first step, or name the folder of another run"
            )
        job = from_json(PretrainJob, path)
        base = PackedManifest.read(Path(job.packed) / "shards")
        return cls.of(folder, job.settings, base, running=running)

    @classmethod
    def of(
        cls, folder: Path, settings: PretrainSettings, base: PackedManifest, *, running: bool
    ) -> Self:
        """The run of these settings and data in a folder, which may be empty."""
        checkpoints = complete_checkpoints(folder / CHECKPOINTS_FOLDER)
        saved = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
        measured = newest_step(folder / METRICS_FILE) if running else 0
        return cls(
            folder=folder,
            changes=Changes.read(folder, settings, base),
            done=max(saved, measured),
            # The boundary after the step that was measured last may be over.
            first_free=max(saved, measured + 1 if measured else 0),
        )

    @property
    def requests(self) -> RequestFolder:
        """What was asked of the run and not done yet."""
        return RequestFolder(self.folder)

    def foresee(self, *more: tuple[str, Request]) -> Changes:
        """The run after all that was asked for, and `more` of it, at the steps asked for.

        Requests that the trainer will refuse are left out. Raises what it would say to `more`.
        """
        changes, own = self.changes, {name for name, _ in more}
        asked = [(p.name, p.request) for p in self.requests.pending() if p.request is not None]
        waiting = [*asked, *more]
        while waiting:
            steps = [
                r.at_step if r.at_step is not None else self._soon(changes) for _, r in waiting
            ]
            first = min(range(len(waiting)), key=steps.__getitem__)
            (name, request), step = waiting.pop(first), steps[first]
            try:
                changes = changes.apply(name, request, step=step, consumed=_consumed(changes, step))
            except SteelError:
                if name in own:
                    raise
        return changes

    def _soon(self, changes: Changes) -> int:
        return max(self.done, changes.last_step)


def append(
    run: RunState,
    data: Path,
    *,
    at_step: int | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int | None = None,
    horizon: Policy | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answer:
    """Ask a run to train on more data.

    Args:
        data: finished stage folder of `pack`, folder of shards, or their manifest.json.
        at_step: completed steps at which they join; None: at the next step boundary, or when a
            stopped run goes on.
        weights: epochs per source of the new data; 1 where not named.
        seed: of the order from there on; None: the run's own.
        horizon: "keep" (the default) or "extend" the run's number of steps.
        progress: called with (bytes checked, bytes in all).

    Raises:
        ConfigError, DataError: it cannot be done, was done otherwise, or the data are damaged or in
            the run already; names the shards.
    """
    manifest = PackedManifest.read(manifest_file(data))
    assert manifest.folder is not None
    given = {"at_step": at_step, "weights": weights, "seed": seed, "horizon": horizon}
    wanted = {name: value for name, value in given.items() if value is not None}
    if answer := _appended_before(run, manifest, wanted):
        return answer
    request = AppendRequest(
        folder=str(manifest.folder.resolve()),
        manifest=manifest.digest,
        seed=run.changes.settings.seed if seed is None else seed,
        weights=dict(weights or {}),
        horizon=horizon or "keep",
        at_step=at_step,
    )
    if at_step is not None and at_step < run.first_free:
        raise ConfigError(
            f"at-step = {at_step} lies in the past: the run has done {run.done} steps; give "
            f"{run.first_free} or more, or leave it out to append at once"
        )
    _refuse_duplicates(run, manifest)
    changes = run.foresee(("new", request))
    if faults := verify_shards(manifest, progress=progress):
        raise DataError("; ".join(faults))
    before = run.foresee()
    return Answer(
        status="requested",
        request=run.requests.publish(request),
        step=at_step,
        total_steps=changes.horizon.total_steps,
        num_samples=changes.order.num_samples - before.order.num_samples,
        num_tokens=manifest.num_tokens,
    )


def move_end(
    run: RunState, *, steps: int | None = None, decay_at: int | Literal["now"] | None = None
) -> Answer:
    """Ask a run for another number of steps, or for its learning rate to decay from a step on.

    Args:
        steps: of the whole run.
        decay_at: step (0-based) from which the rate falls to its minimum at the end.

    Raises:
        ConfigError: neither is given, or it cannot be done.
    """
    if steps is None and decay_at is None:
        raise ConfigError("nothing is asked for: give --steps, --decay-at or --decay now")
    request = HorizonRequest(steps=steps, decay_at=decay_at)
    horizon = run.changes.horizon
    waiting = [p for p in run.requests.pending() if _moves_end(p.request)]
    decays = horizon.decay_at is not None and decay_at == "now" and horizon.decay_at <= run.done
    holds = steps in (None, horizon.total_steps)
    holds = holds and (decays or decay_at in (None, horizon.decay_at))
    if holds and not waiting:
        last = horizon.changes[-1] if horizon.changes else None
        return Answer(
            status="done",
            request=last.request if last else "",
            step=last.step if last else 0,
            total_steps=horizon.total_steps,
        )
    if waiting and waiting[-1].request == request:
        total = run.foresee().horizon.total_steps
        return Answer(status="pending", request=waiting[-1].name, step=None, total_steps=total)
    total = run.foresee(("new", request)).horizon.total_steps
    name = run.requests.publish(request)
    return Answer(status="requested", request=name, step=None, total_steps=total)


def _moves_end(request: Request | None) -> bool:
    extends = isinstance(request, AppendRequest) and request.horizon == "extend"
    return extends or isinstance(request, HorizonRequest)


def _appended_before(
    run: RunState, manifest: PackedManifest, wanted: Mapping[str, Any]
) -> Answer | None:
    """The answer when these very data were appended or asked for; None when they were not.

    Raises DataError when that was done in another way than what is wanted.
    """
    for pending in run.requests.pending():
        request = pending.request
        if isinstance(request, AppendRequest) and request.manifest == manifest.digest:
            _same(manifest, wanted, {name: getattr(request, name) for name in wanted}, pending)
            total = run.foresee().horizon.total_steps
            return Answer(
                status="pending",
                request=pending.name,
                step=request.at_step,
                total_steps=total,
                num_tokens=manifest.num_tokens,
            )
    for entry in run.changes.journal.entries:
        if entry.manifest != manifest.digest:
            continue
        change = next(c for c in run.changes.horizon.changes if c.manifest == manifest.digest)
        done = {
            "at_step": change.step,
            "weights": entry.weights,
            "seed": entry.seed,
            "horizon": change.policy,
        }
        _same(manifest, wanted, {name: done[name] for name in wanted}, None)
        return Answer(
            status="done",
            request=change.request,
            step=change.step,
            total_steps=run.changes.horizon.total_steps,
            num_tokens=manifest.num_tokens,
        )
    return None


def _same(
    manifest: PackedManifest,
    wanted: Mapping[str, Any],
    found: Mapping[str, Any],
    pending: Pending | None,
) -> None:
    for name, value in wanted.items():
        if value == found[name]:
            continue
        what = f"{name} = {found[name]!r}, not {value!r}"
        if pending is None:
            raise DataError(
                f"the data in {manifest.folder} joined this run with {what}: what was trained on "
                "stays; move the end with `steel horizon`"
            )
        raise DataError(
            f"the data in {manifest.folder} are asked for already with {what}; to ask anew, "
            f"remove the request {pending.name} from the run's requests/"
        )


def _refuse_duplicates(run: RunState, new: PackedManifest) -> None:
    """Name both shards when some content is in the run, or asked for, already."""
    known = {
        shard.md5: (shard.name, where)
        for manifest, where in _known(run)
        for shard in manifest.shards
    }
    for shard in new.shards:
        if shard.md5 in known:
            name, where = known[shard.md5]
            raise DataError(
                f"shard {shard.name!r} of {new.folder} has the content of {name!r} of {where} "
                f"(MD5 {shard.md5}): it would be trained on twice. Take it out and append the rest"
            )


def _known(run: RunState) -> Iterator[tuple[PackedManifest, str]]:
    """All data of a run, and where they came into it."""
    yield run.changes.base, f"the run's first data ({run.changes.base.folder})"
    for entry in run.changes.journal.entries:
        manifest = run.changes.journal.manifests[entry.manifest]
        yield manifest, f"the data appended at sample {entry.at} ({manifest.folder})"
    for pending in run.requests.pending():
        if isinstance(pending.request, AppendRequest):
            folder = Path(pending.request.folder)
            if (folder / PackedManifest.FILE_NAME).is_file():
                yield PackedManifest.read(folder), f"the data asked for ({folder})"


def manifest_file(data: Path) -> Path:
    """manifest.json of packed shards, from whatever points to them. Raises DataError."""
    places = [data / "shards" / PackedManifest.FILE_NAME, data / PackedManifest.FILE_NAME, data]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        f"no packed data in {data}: give a finished folder of the stage `pack`, a folder of shards "
        "or its manifest.json"
    )


def _consumed(changes: Changes, step: int) -> int:
    """Samples after `step` steps; at least this many, for batches may have been skipped."""
    size = changes.settings.global_batch_size
    if not changes.journal.entries:
        return step * size
    appended = {entry.manifest for entry in changes.journal.entries}
    then = max(c.step for c in changes.horizon.changes if c.manifest in appended)
    return max(step * size, changes.journal.entries[-1].at + (step - then) * size)
