"""One SFT model of a comparison, and its evaluation, in a process of its own.

    flows.ablations.parallel ──job.json──▶ Pipeline.tune(mixture) ──▶ Pipeline.score

Everything before the fine-tuning is finished in the store; the job names its folders. What is
finished of this model is skipped, what was interrupted goes on.
"""

import logging
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.child import run_job
from common.processes import RunStopped, die_with_parent, stop_on_signals
from common.provenance import git_commit
from common.recipes import build
from flows.config import PipelineConfig
from flows.graph import Pipeline
from tasks.core.stage import Context, StageResult, plain
from tasks.core.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class MixtureJob:
    """One model of a comparison."""

    label: str
    """Name of its runs: `<mixture>` or `<mixture> seed <seed>`; `base` for the base itself."""
    mixture: str
    """Recipe in data_recipes/mixtures; empty: the base is evaluated and nothing trained."""
    config: dict[str, Any]
    """The pipeline's configuration with this seed; passwords in URLs are left out."""
    stages: dict[str, str]
    """Property of `Pipeline` -> folder of the finished stage, for all before the fine-tuning."""
    data_sets: list[list[str]]
    """Kind, name, location and folder of every data set that was acquired."""
    store: str
    """Folder of all stages' results."""
    pipeline_id: str
    """Id that the MLflow runs of the comparison share."""
    flow_run_id: str | None
    """Prefect's id of the flow run that compares."""
    parent_run: str | None
    """MLflow run of the comparison, which this one stands below."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Finished stages before a fine-tuning, which models of one comparison share."""

    stages: dict[str, StageResult] = field(default_factory=dict)
    """Property of `Pipeline` -> result."""
    data_sets: dict[tuple[str, ...], StageResult] = field(default_factory=dict)
    """Kind, name and location, without passwords -> result of its acquisition."""
    models: dict[tuple[str, ...], StageResult] = field(default_factory=dict)
    """Models of a path, whose weights were read and compared; a child does that anew."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Upstream":
        """Collect the stages that a pipeline has made so far."""
        made = {tuple(map(plain, place)): result for place, result in pipeline._made.items()}
        return cls(
            stages={n: v for n, v in vars(pipeline).items() if isinstance(v, StageResult)},
            data_sets={place: result for place, result in made.items() if len(place) == 3},
            models={place: result for place, result in made.items() if place[0] == "model"},
        )

    @classmethod
    def read(cls, job: MixtureJob) -> "Upstream":
        """The stages that a job names. Raises DataError for one that is not there."""
        return cls(
            stages={name: StageResult.read(Path(at)) for name, at in job.stages.items()},
            data_sets={tuple(p): StageResult.read(Path(folder)) for *p, folder in job.data_sets},
        )

    def pipeline(self, config: PipelineConfig, context: Context) -> Pipeline:
        """A pipeline of another configuration that goes on from here."""
        found = Pipeline(config, context, _made=self.data_sets | self.models)
        vars(found).update(self.stages)
        return found


def model_of(pipeline: Pipeline, mixture: str, label: str) -> StageResult:
    """The model that is evaluated: the SFT model of a mixture, or for none what it starts from."""
    return pipeline.tune(mixture, label) if mixture else pipeline.start


def score_name(mixture: str, label: str) -> str:
    """Name of its evaluation, as the pipeline's own evaluations have it."""
    return f"sft {label}" if mixture else label


def make(job: MixtureJob) -> None:
    """Train and evaluate one model, recorded in an MLflow run below that of the comparison."""
    config = build(PipelineConfig, job.config, where=job.label)
    tracker = Tracker(
        store=Path(job.store),
        pipeline=job.label,
        pipeline_id=job.pipeline_id,
        flow_run_id=job.flow_run_id,
        config=job.config,
        git_commit=git_commit(),
        parent_run=job.parent_run,
    )
    context = Context(
        store=Path(job.store), tracker=tracker, when_busy=config.devices.when_busy, is_task=False
    )
    with tracker.recorded():
        pipeline = Upstream.read(job).pipeline(config, context)
        model = model_of(pipeline, job.mixture, job.label)
        pipeline.score(score_name(job.mixture, job.label), model)


def main(argv: list[str]) -> int:
    """Make the model of a job; returns the exit code. What is stopped saves, and is KILLED."""
    try:
        with stop_on_signals():
            return run_job(MixtureJob, make, argv)
    except RunStopped as stop:
        logging.getLogger(__name__).warning("%s", stop.message)
        return 128 + stop.number


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    sys.exit(main(sys.argv[1:]))
