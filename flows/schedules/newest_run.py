"""The newest pretraining of a configuration, also where its corpora have changed since."""

import contextlib
from pathlib import Path

from common.config import from_json
from common.errors import SteelError
from common.files import PARTIAL
from flows.config import PipelineConfig
from flows.graph import Pipeline
from model.train.config import PretrainJob
from model.train.run.folder import JOB_FILE
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.core.plan import Plan, no_tracker
from tasks.core.stage import Context, plain


def own_run(config: PipelineConfig, store: Path) -> PretrainingRun | None:
    """The pretraining that a configuration makes; None where it makes none."""
    if not config.pretrains:
        return None
    plan = Context(store=store, tracker=no_tracker(), plan=Plan())
    return PretrainingRun(store / "pretrain" / Pipeline(config, plan).base.key)


def newest_run(config: PipelineConfig, store: Path) -> PretrainingRun | None:
    """The pretraining of a configuration that has begun: its own one; else, of those with the same
    settings, the one that was taken up last. None where there is none.

    The corpora are no setting: new files in them would make it another training, which is not what
    somebody means who asks for the newest one.
    """
    own = own_run(config, store)
    if own is None or (own.folder / JOB_FILE).is_file():
        return own
    assert config.pretrain is not None
    wanted = plain(config.pretrain.settings, key=True)
    found: list[tuple[float, PretrainingRun]] = []
    for path in (store / "pretrain").glob(f"*/{JOB_FILE}"):
        with contextlib.suppress(SteelError, OSError):  # being written, or of another version
            job = from_json(PretrainJob, path)
            if plain(job.settings, key=True) == wanted:
                name = path.parent.name.removesuffix(PARTIAL)
                found.append((path.stat().st_mtime, PretrainingRun(path.parent.with_name(name))))
    return max(found, key=lambda pair: pair[0])[1] if found else None
