"""The decorator of every stage: key, folder, lock, manifest last, MLflow run, Prefect task.

    STORE/<stage>/<key>.lock/     held by the one process that works on the key (see lock.py)
    STORE/<stage>/<key>.partial/  where the stage writes; an interrupted run continues from it
    STORE/<stage>/<key>/          published by one rename; manifest.json inside is written last

The key is a hash of everything the result depends on: the stage's name and version, its config, the
keys of its inputs, the content of the recipes it uses, and what its config says about outside files
(`fingerprint`). A stage whose folder exists is skipped.
"""

import base64
import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import StageConfig, validate
from common.devices import WhenBusy
from common.disk import told_when_full
from common.errors import StageError
from common.files import make_folder, write_status
from common.paths import display
from common.processes import RunStopped, uninterrupted
from common.redaction import hidden_in_errors, recorded
from tasks.core.artifacts import (
    Logger,
    StageTask,
    artifact_key,
    flow_run_id,
    publish_artifact,
    run_logger,
)
from tasks.core.lock import StageLock, WorkedSeconds
from tasks.core.manifest import (
    BEGUN,
    READ_AGAIN,
    SCRATCH,
    StageInput,
    StageResult,
    input_keys,
    key_of,
    manifest_of,
    plain,
    publish,
    reclaim,
    stage_key,
    stage_material,
    tidy,
)
from tasks.core.plan import Plan
from tasks.core.progress import ProgressReporter
from tasks.core.results.in_use import Uses
from tasks.core.waiting import StageWait, tell_progress

if TYPE_CHECKING:
    from tasks.core.tracking import StageTrack, Tracker

__all__ = ["Context", "NotMadeError", "StageResult", "StageRun", "plain", "stage", "stage_key"]


TELL_SECONDS = 5.0
"""Time between two notes of a stage's progress for those who wait for it."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Store and tracker that the stages of one pipeline share."""

    store: Path
    """Folder of all stage folders."""
    tracker: "Tracker"
    """Recorder of their runs."""
    plan: Plan | None = None
    """Collects the stages instead of making them; None makes them."""
    not_made: frozenset[str] = frozenset()
    """Stages that are looked up and never made here: one that is not finished raises
    NotMadeError."""
    when_busy: WhenBusy = "wait"
    """Wait, refuse or share while the same stage is made elsewhere, or others have the devices."""
    is_task: bool = True
    """If true, each stage is a Prefect task; if false, a plain call, for processes without a flow
    of their own."""
    uses: Uses = field(default_factory=Uses, compare=False, repr=False)
    """Finished stages that this run goes on from, which are not removed meanwhile."""

    @property
    def planned(self) -> bool:
        """True if no stage is made, and folders of stages may not be there."""
        return self.plan is not None


class NotMadeError(StageError):
    """A stage that is not finished, where it was only looked up."""


@dataclass(kw_only=True)
class StageRun:
    """One run of a stage, as its function receives it."""

    stage: str
    """Name of the stage."""
    key: str
    """Hash of everything the result depends on."""
    folder: Path
    """Write everything here. May hold what an interrupted attempt has left: continue from it."""
    log: Logger
    """Goes to the console and to Prefect."""
    track: "StageTrack"
    """The MLflow run of this stage."""
    counts: dict[str, float] = field(default_factory=dict)
    """Numbers for the manifest and for MLflow."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Whatever else the manifest should say; JSON values."""
    store: Path | None = None
    """The store that the stage belongs to; None where it stands alone."""
    when_busy: WhenBusy = "wait"
    """Wait, refuse or share while others have the devices that it needs."""
    waited: float = 0.0
    """Seconds for which it has waited for devices."""
    saved: Callable[[], str] | None = None
    """Says what a stage that trains has saved so far, as in `saved step 70`."""
    _progress: ProgressReporter | None = None
    _percent: int = 0
    _lock: StageLock | None = None
    _told: float = 0.0

    @property
    def scratch(self) -> Path:
        """Working files: kept across interruptions, removed before publication."""
        path = self.folder / SCRATCH
        path.mkdir(exist_ok=True)
        return path

    @property
    def cache(self) -> Path:
        """Folder of what is made once for all stages of a store, under names of its content."""
        return self.store / "cache" if self.store is not None else self.scratch

    def linked(self, name: str, results: Mapping[str, StageResult]) -> Path:
        """A folder with a link for each data set to where `acquire` has put it.

        name: of the folder; results: the stage that brought a data set in, by its name.
        """
        folder = self.scratch / "inputs" / name
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
        folder.mkdir(parents=True)
        for data_set, result in results.items():
            (folder / data_set).symlink_to((result.folder / data_set).resolve())
        return folder

    def count(self, **numbers: float) -> None:
        """Record numbers: into the manifest's `counts` and the stage's MLflow run."""
        self.counts.update(numbers)

    def note(self, **values: Any) -> None:
        """Record JSON values in the manifest's `notes`."""
        self.notes.update(values)

    def settle(self, **values: Any) -> None:
        """Record what stands for `auto` and 0 of the configuration, and what else tells this run
        apart from others: parameters of its MLflow runs, `notes.settled` of the manifest."""
        if not values:
            return
        settled = self.notes.setdefault("settled", {})
        new = {name: value for name, value in values.items() if settled.get(name) != value}
        settled.update(new)
        if new:
            self.track.parameters(new)

    def progress(
        self, done: float, total: float, what: str = "", seconds_left: float | None = None
    ) -> None:
        """Say how far the stage is. Call it as often as you like: it is throttled here.

        done, total: in any unit; seconds_left: where the stage knows better than its pace tells.
        Raises StageError when another process has taken the stage over.
        """
        self.check_lock()
        if total > 0:
            self._percent = min(100, int(100 * done / total))
        reporter = self._reporter()
        reporter.update(done, total, what, seconds_left)
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            left = reporter.seconds_left(done, total) if seconds_left is None else seconds_left
            tell_progress(self.folder, done, total, what, left)

    def _reporter(self) -> ProgressReporter:
        if self._progress is None:
            self._progress = ProgressReporter(self.stage, self.log)
        return self._progress

    def done(self) -> None:
        """Say that the stage has done all: its progress ends at 100 %."""
        self._reporter().finish()

    def check_lock(self) -> None:
        """Raise StageError when another process has taken the stage over."""
        if self._lock is not None and self._lock.lost:
            self._lock.check()

    def kept(self, keeps: str) -> str:
        """Say what is kept should it stop here; keeps: unfinished work that the stage keeps."""
        if self.saved is not None:
            return f"{self.stage} {self.saved()}"
        if keeps:
            return f"{self.stage} at {self._percent} % ({keeps} are kept)"
        return f"{self.stage} begins again"

    def table(self, name: str, rows: list[dict[str, Any]], description: str = "") -> None:
        """Show rows as a Prefect table artifact and keep them as an MLflow table.

        Without rows Prefect shows the description and "none": its page of an empty table is blank.
        """
        key = artifact_key(name)
        if rows:
            publish_artifact(self.log, "table", key=key, table=rows, description=description)
        else:
            publish_artifact(
                self.log, "markdown", key=key, markdown=f"{description or name}: none."
            )
        self.track.table(f"{name}.json", rows)

    def picture(self, path: Path, description: str = "") -> None:
        """Show a PNG as a Prefect artifact and keep it in MLflow."""
        data = base64.b64encode(path.read_bytes()).decode()
        publish_artifact(
            self.log,
            "markdown",
            key=artifact_key(f"{path.stem} picture"),
            description=description,
            markdown=f"![{description}](data:image/png;base64,{data})",
        )
        self.track.artifact(path)

    def markdown(self, name: str, text: str) -> None:
        """Show text as a Prefect artifact and keep it in MLflow."""
        publish_artifact(self.log, "markdown", key=artifact_key(name), markdown=text)
        self.track.text(f"{name}.md", text)


def stage(
    *, version: int, trains: bool = False, measures: bool = False, keeps: str = ""
) -> Callable[[Callable[..., None]], Callable[..., StageResult]]:
    """Make a stage of a function `fn(run, config, **inputs)`.

    Args:
        version: raise it when the same inputs give another output: finished folders are redone.
        trains: its metrics go, step by step, into a flat MLflow run beside those of other models.
        measures: its counts go into a flat MLflow run beside those of other measurements of speed.
        keeps: what is kept of a stage that was stopped, such as "finished partitions"; nothing: it
            begins again. One that trains sets `StageRun.saved`.

    The result is called as `fn(config, context=…, label=…, **inputs)`: it returns the finished
    stage, from the store if it is there; else the config is validated and the function called.
    `label` tells several runs of one stage apart.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., StageResult]:
        name = function.__name__

        def work(
            config: StageConfig, *, context: Context, label: str = "", **inputs: StageInput
        ) -> StageResult:
            # Prefect stores what is raised here.
            with hidden_in_errors(), told_when_full(f"{name} {label}".strip()):
                return make(config, context, label, inputs)

        def make(
            config: StageConfig, context: Context, label: str, inputs: Mapping[str, StageInput]
        ) -> StageResult:
            key = stage_key(name, version, config, inputs)
            folder = context.store / name / key
            log = run_logger()
            title = f"{name} {label}".strip()
            if context.uses.hold(folder):
                result = StageResult.read(folder)
                config.check_finished(result.folder, result.manifest)
                tidy(folder)
                log.info("%s: finished before, skipped (%s)", title, display(folder))
                context.tracker.reused(title, key, result.manifest)
                return result
            if name in context.not_made:
                raise NotMadeError(f"{title} is not finished")
            validate(config, name)
            make_folder(folder.parent)
            partial = folder.with_suffix(".partial")
            waits = StageWait(title, partial, log) if context.when_busy != "refuse" else None
            with StageLock(folder.with_suffix(".lock"), what=title, waiting=waits) as lock:
                if waits is not None:
                    waits.over()
                if context.uses.hold(folder):  # finished while we waited for the lock
                    result = StageResult.read(folder)
                    config.check_finished(result.folder, result.manifest)
                    log.info("%s: finished meanwhile, skipped (%s)", title, display(folder))
                    context.tracker.reused(title, key, result.manifest)
                    return result
                reclaim(partial, folder)
                log.info("%s: %s", title, "continues" if partial.exists() else "starts")
                make_folder(partial)
                with context.tracker.stage(
                    name,
                    label=label,
                    key=key,
                    folder=partial,
                    config=plain(config),
                    inputs=input_keys(inputs),
                    trains=trains,
                    measures=measures,
                ) as track:
                    run = StageRun(
                        stage=title,
                        key=key,
                        folder=partial,
                        log=log,
                        track=track,
                        store=context.store,
                        when_busy=context.when_busy,
                        _lock=lock,
                    )
                    started, worked = time.time(), WorkedSeconds(run.scratch / "seconds.json")
                    lock.beat = lambda: worked.note(run.waited)
                    _begin(run, label, name, config, inputs, started)
                    try:
                        function(run, config, **inputs)
                    except RunStopped as stop:
                        stop.kept.append(run.kept(keeps))
                        raise
                    finally:
                        lock.beat = None
                        worked.note(run.waited)
                    run.count(seconds=round(worked.total(run.waited), 3))
                    if run.waited:
                        run.count(seconds_waited=round(run.waited, 3))
                    track.counts(run.counts)
                    manifest = manifest_of(name, version, label, run, config, inputs, started)
                    with uninterrupted():
                        publish(partial, folder, manifest, check=lock.check)
                        context.uses.hold(folder)
                        track.manifest(manifest)
                    run.done()
            log.info("%s: done in %.0f s", title, run.counts["seconds"])
            return StageResult.read(folder, reused=False)

        as_task = StageTask(name, work, function.__doc__)

        @functools.wraps(function)
        def call(config: StageConfig, *, context: Context, **kwargs: Any) -> StageResult:
            if context.plan is not None:
                label = kwargs.pop("label", "")
                plan = context.plan
                material = stage_material(name, version, config, kwargs, absent=plan.absent)
                key = key_of(material)
                return plan.add(name, label, key, context.store / name / key, material, config)
            looked_up = name in context.not_made
            if looked_up or not context.is_task:
                return work(config, context=context, **kwargs)
            made: StageResult = as_task(config, context=context, **kwargs)
            return made

        return call

    return decorate


def _begin(
    run: StageRun,
    label: str,
    name: str,
    config: StageConfig,
    inputs: Mapping[str, StageInput],
    started: float,
) -> None:
    """Say what this stage will be, for those who look into the store before it is finished."""
    about = {
        "stage": name,
        "label": label,
        "key": run.key,
        "config": plain(config),
        "inputs": input_keys(inputs),
        "started": round(started, 3),
        "prefect_flow_run": flow_run_id(),
    }
    write_status(run.scratch / Path(BEGUN).name, recorded(about, as_they_are=READ_AGAIN))
