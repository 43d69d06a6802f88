"""Refreshes that are complete: which state of the corpora is in which training.

    STORE/refreshed/<key of acquire>.json    the corpora as they were then: {run, begun, packed, …}

Written last, when the new data are requested. A configuration of that training whose corpora are in
a recorded state has the training that they were appended to: its stages are those that the training
began with. Without the record (remove the file), without the training, and for any configuration
that makes another one, it is a training on all of it, anew.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.config import from_json
from common.errors import SteelError
from common.files import PARTIAL, make_folder, write_json
from common.paths import display
from tasks.acquire import AcquireConfig, acquire
from tasks.core.artifacts import run_logger
from tasks.core.manifest import StageResult, stage_material
from tasks.core.plan import Plan, no_tracker
from tasks.core.stage import Context

FOLDER = "refreshed"


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """A state of the corpora whose new part was appended to a training."""

    acquired: str
    """Key of the stage `acquire` for this state."""
    run: str
    """Key of the training."""
    begun: str
    """Key of `acquire` of the corpora that it began with."""
    packed: str = ""
    """Key of the packed new part; empty where nothing was new."""
    beside: tuple[str, ...] = ()
    """Keys of the packed data that were in the training, or waited for it, when this was written:
    what is in them was not taken up again."""
    request: str = ""
    """Name of the request to the training."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""

    def stands(self, packs: Collection[str]) -> bool:
        """True if all of this state is in a training with these packed data: its own request, or
        an earlier one, may have been refused, or removed, since."""
        return {self.packed, *self.beside} - {""} <= set(packs)

    def write(self, store: Path) -> None:
        """Record it."""
        make_folder(store / FOLDER)
        write_json(store / FOLDER / f"{self.acquired}.json", asdict(self))


def read_record(store: Path, acquired: str) -> Refreshed | None:
    """The record of a state of the corpora. Raises DataError for a damaged one."""
    path = store / FOLDER / f"{acquired}.json"
    return from_json(Refreshed, path) if path.is_file() else None


def records_of(store: Path, run: str) -> Iterator[Refreshed]:
    """The records of a training."""
    for path in sorted((store / FOLDER).glob("*.json")):
        record = from_json(Refreshed, path)
        if record.run == run:
            yield record


def acquired_key(config: AcquireConfig, store: Path) -> str:
    """Key of the corpora as they are now; nothing is acquired."""
    plan = Context(store=store, tracker=None, plan=Plan())  # type: ignore[arg-type]
    return acquire(config, context=plan).key


def acquired_corpora(
    config: AcquireConfig, context: Context, training: Callable[[StageResult, Context], str]
) -> StageResult:
    """The corpora of a configuration, or those that its training began with, if all that is new
    since was appended to that.

    training: key of the configuration's training on given corpora, in a context that plans.
    """
    begun = _as_begun(config, context, training)
    return acquire(config, context=context, label="corpora") if begun is None else begun


def _as_begun(
    config: AcquireConfig, context: Context, training: Callable[[StageResult, Context], str]
) -> StageResult | None:
    if not (context.store / FOLDER).is_dir():
        return None
    try:
        record = read_record(context.store, acquired_key(config, context.store))
    except SteelError:
        return None  # said by the stage itself
    if record is None:
        return None
    folder = context.store / "acquire" / record.begun
    run = context.store / "pretrain" / record.run
    if not (run.is_dir() or run.with_name(f"{run.name}{PARTIAL}").is_dir()):
        return None  # the training is gone, and with it what was appended
    if not (folder / "manifest.json").is_file():
        return None
    result = StageResult.read(folder)
    plan = Plan(absent=context.plan is not None and context.plan.absent)
    planning = Context(store=context.store, tracker=no_tracker(), plan=plan)
    if training(result, planning) != record.run:
        return None  # of other settings, which has nothing appended
    if context.plan is None:
        run_logger().info(
            "corpora: as the training %s began with them; what is new since was appended to it "
            "(to train on all of them anew: remove %s)",
            record.run,
            display(context.store / FOLDER / f"{record.acquired}.json"),
        )
        context.tracker.reused("acquire corpora", result.key, result.manifest)
        return result
    # That of the corpora it began with, whose key is in all that was made from them.
    version = int(result.manifest.get("stage_version", 0))
    material = stage_material("acquire", version, config, {}, absent=context.plan.absent)
    return context.plan.add("acquire", "corpora", result.key, folder, material, config)
