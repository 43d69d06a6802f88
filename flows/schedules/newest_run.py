"""The newest pretraining of a configuration, also where its corpora have changed since."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.config import from_json
from common.errors import SteelError
from common.files import PARTIAL
from flows.config import PipelineConfig
from flows.graph import Pipeline
from model.train.config import PretrainJob
from model.train.run.folder import JOB_FILE
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.core.manifest import StageResult
from tasks.core.plan import Plan, no_tracker
from tasks.core.stage import Context, plain
from tasks.refresh.lineage import texts_of


def own_run(config: PipelineConfig, store: Path) -> PretrainingRun | None:
    """The pretraining that a configuration makes; None where it makes none."""
    if not config.pretrains:
        return None
    return _own(config, store, Plan())


def _own(config: PipelineConfig, store: Path, plan: Plan) -> PretrainingRun:
    context = Context(store=store, tracker=no_tracker(), plan=plan)
    return PretrainingRun(store / "pretrain" / Pipeline(config, context).base.key)


def newest_run(config: PipelineConfig, store: Path) -> PretrainingRun | None:
    """The pretraining of a configuration that has begun: its own one; else, of those with the same
    settings and corpora of the same names, prepared alike, the one that was taken up last. None
    where there is none.

    Places and files of the corpora are no setting: new files in them would make it another
    training, which is not what somebody means who asks for the newest one. Which corpora, and how
    they are cleaned and packed, are: a comparison of mixtures has trainings that differ in nothing
    else.
    """
    if not config.pretrains:
        return None
    plan = Plan()
    own = _own(config, store, plan)
    if (own.folder / JOB_FILE).is_file():
        return own
    assert config.pretrain is not None
    made = [(one.name, one.material["config"]) for one in plan.stages if one.material]
    planned = {name: one for name, one in made if name != "acquire" or one.get("kind") == "corpora"}
    wanted = plain(config.pretrain.settings, key=True)
    found: list[tuple[float, PretrainingRun]] = []
    for path in (store / "pretrain").glob(f"*/{JOB_FILE}"):
        with contextlib.suppress(SteelError, OSError):  # being written, or of another version
            job = from_json(PretrainJob, path)
            if plain(job.settings, key=True) != wanted:
                continue
            run = PretrainingRun(path.parent.with_name(path.parent.name.removesuffix(PARTIAL)))
            if all(
                _agrees(planned.get(result.stage, {}), result) for result in _data_of(run, store)
            ):
                found.append((path.stat().st_mtime, run))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _data_of(run: PretrainingRun, store: Path) -> Iterator[StageResult]:
    """The stages behind the data that a training began with, as far as they are there."""
    with contextlib.suppress(SteelError, OSError):
        yield from texts_of(run.packed(), store)


def _agrees(planned: Mapping[str, Any], result: StageResult) -> bool:
    """True if a stage was made with planned settings; of corpora the names count, and how much of
    each was taken."""
    made = result.manifest["config"]
    if result.stage == "acquire":
        if {*planned.get("datasets", {})} != {*made.get("datasets", {})}:
            return False
        planned = {name: planned.get(name) for name in ("fraction", "limit")}
    return _same(planned, made)


def _same(planned: Any, made: Any) -> bool:
    """True if settings are equal, but for those that are in no key, or that are newer."""
    if isinstance(planned, Mapping) and isinstance(made, Mapping):
        return all(_same(value, made[name]) for name, value in planned.items() if name in made)
    return bool(planned == made)
