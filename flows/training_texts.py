"""Texts that a model of the pipeline was trained on: the stages that searched them for benchmark
questions, and words for those that nobody has searched.

    base             the corpora
    sft MIXTURE      the texts of the model that it starts from, and the mixture
    dpo              the texts of its policy, and the preference pairs
    model of a path  unknown, but for the data of a stage that is that model
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tasks.core.stage import StageResult
from tasks.evaluate.adjusted import AdjustedScoresConfig

if TYPE_CHECKING:
    from flows.config import PipelineConfig
    from flows.graph import Pipeline


@dataclass(frozen=True, kw_only=True)
class TrainingTexts:
    """Texts of one model."""

    stages: Mapping[str, StageResult] = field(default_factory=dict)
    """corpora, tuned, aligned -> the stage that knows which questions they contain."""
    unknown: tuple[str, ...] = ()
    """Texts of which no stage knows, in words."""

    def also(self, **stages: StageResult) -> "TrainingTexts":
        """These texts and some more."""
        return replace(self, stages={**self.stages, **stages})


def training_texts(pipeline: "Pipeline", model: StageResult) -> TrainingTexts:
    """Texts that a model which the pipeline scores was trained on."""
    config = pipeline.config
    if config.pretrains and model is pipeline.base:
        return _pretraining(pipeline)
    if any(model is one for one in pipeline.tuned.values()):
        return _start(pipeline).also(tuned=model)
    if pipeline.aligned is None or model is not pipeline.aligned:
        return _given(model)
    if path := config.dpo_of().policy_model:
        return _given(pipeline.given(path)).also(aligned=model)
    assert config.policy_mixture is not None
    return _start(pipeline).also(tuned=pipeline.tune(config.policy_mixture), aligned=model)


def _start(pipeline: "Pipeline") -> TrainingTexts:
    """Texts of the model that SFT starts from."""
    assert pipeline.config.sft is not None
    if pipeline.config.sft.base_model:
        return _given(pipeline.start)
    return _pretraining(pipeline)


def _pretraining(pipeline: "Pipeline") -> TrainingTexts:
    """Texts of the model that this configuration pretrains."""
    config = pipeline.config
    found = pipeline.contamination
    unknown = []
    if found is None:
        unknown.append("the corpora were not searched (contamination.enabled is false)")
    elif config.contamination.corpora:
        left = sorted(config.corpora.keys() - {*config.contamination.corpora})
        if left:
            unknown.append(f"corpora that were not searched: {', '.join(left)}")
    if pipeline.base.identity != pipeline.base.key:
        unknown.append("data that were appended to the pretraining")
    return TrainingTexts(
        stages={"corpora": found} if found is not None else {}, unknown=tuple(unknown)
    )


def _given(model: StageResult) -> TrainingTexts:
    """Texts of a model of a path: those of its own stage are known if Steel made it."""
    known = {"sft": "tuned", "dpo": "aligned"}.get(model.stage)
    name = model.manifest.get("label") or model.key
    words = f"what the given model {name} was trained on"
    if known is None:
        return TrainingTexts(unknown=(words,))
    return TrainingTexts(stages={known: model}, unknown=(f"{words} before {model.stage}",))


def adjusted_config(config: "PipelineConfig", texts: TrainingTexts) -> AdjustedScoresConfig:
    """Settings of the stage that scores a model by what these texts contain."""
    return AdjustedScoresConfig(
        min_questions=config.contamination.min_questions,
        search=config.contamination.thresholds,
        on_bad_row=config.evaluate.on_bad_row,
        unknown=texts.unknown,
    )
