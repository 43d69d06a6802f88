"""The pipeline as a graph: each property is a stage, and names its inputs.

    corpora ─▶ normalized ─▶ cleaned ─▶ packed ─▶ base ─▶ tuned[mixture] ─▶ aligned
                   └─▶ held_out (before cleaning) ──▶ bits_per_byte (base)
    sft_data ───────────────────│─────────┴──────────────────┤                │
    preference_data ────────────│─────────┴──────────────────│────────────────┘
    benchmarks ─▶ contamination ┴────────────────────────────┘
      └────▶ evaluations[base, each mixture, dpo] ─▶ report

Reading a property makes that stage and everything it needs; stages that are finished in the store
are skipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from common.config import raise_all
from common.errors import ConfigError
from flows.config import PipelineConfig
from tasks.acquire import acquire
from tasks.bits_per_byte import BitsPerByteConfig, bits_per_byte
from tasks.clean import clean, enforce
from tasks.core.stage import Context, StageResult
from tasks.core.store import newest
from tasks.dpo import dpo
from tasks.evaluate import benchmark_problems, evaluate
from tasks.hold_out import HoldOutConfig, hold_out
from tasks.normalize import normalize
from tasks.pack import pack
from tasks.pretrain import pretrain
from tasks.report import report
from tasks.sft import sft

Target = Literal["data", "pretrain", "sft", "dpo", "evaluate", "report"]

TARGETS: dict[Target, str] = {
    "data": "packed",
    "pretrain": "base",
    "sft": "tuned",
    "dpo": "aligned",
    "evaluate": "evaluations",
    "report": "report",
}
"""Targets, which a run can be asked for by name -> the property of `Pipeline` that makes each."""


@dataclass(frozen=True)
class Pipeline:
    """All stages of one configuration."""

    config: PipelineConfig
    context: Context
    vocabulary: Mapping[str, StageResult] = field(default_factory=dict)
    """Further texts whose words a pruned vocabulary knows, by name."""

    @cached_property
    def corpora(self) -> StageResult:
        """Raw pretraining corpora."""
        return acquire(self.config.acquire("corpora"), context=self.context, label="corpora")

    @cached_property
    def sft_data(self) -> StageResult | None:
        """Raw SFT sets."""
        if not self.config.sft_sets:
            return None
        return acquire(self.config.acquire("sft"), context=self.context, label="sft")

    @cached_property
    def preference_data(self) -> StageResult | None:
        """Raw preference pairs."""
        if not self.config.preference_sets:
            return None
        return acquire(
            self.config.acquire("preferences"), context=self.context, label="preferences"
        )

    @cached_property
    def benchmarks(self) -> StageResult | None:
        """Benchmark files."""
        if not self.config.benchmarks:
            return None
        acquired = acquire(self.config.acquire("evals"), context=self.context, label="evals")
        # Before anything is trained; those on this machine were looked at before the run began.
        folders = {name: acquired.folder / name for name in self.config.benchmarks}
        raise_all(list(benchmark_problems(self.config.evaluate, folders)), "benchmarks")
        return acquired

    @cached_property
    def normalized(self) -> StageResult:
        """Corpora in the one format."""
        config = replace(self.config.normalize, optional=tuple(self.config.optional_corpora))
        return normalize(config, context=self.context, raw=self.corpora)

    @cached_property
    def held_out(self) -> StageResult | None:
        """The corpora without the texts that are only scored, and those texts."""
        if not self.config.held_out:
            return None
        config = HoldOutConfig(sets=self.config.held_out)
        return hold_out(config, context=self.context, normalized=self.normalized)

    @cached_property
    def cleaned(self) -> StageResult:
        """Documents that cleaning kept, without questions of the benchmarks."""
        result = clean(
            replace(self.config.clean, optional=tuple(self.config.optional_corpora)),
            context=self.context,
            normalized=self.held_out or self.normalized,
            benchmarks=self.benchmarks,
        )
        enforce(result, self.config.clean)
        return result

    @cached_property
    def packed(self) -> StageResult:
        """Tokenizer and token shards. A pruned vocabulary covers the later stages' texts too."""
        extra = {"sft": self.sft_data, "preferences": self.preference_data, **self.vocabulary}
        return pack(
            self.config.pack,
            context=self.context,
            cleaned=self.cleaned,
            extra_text={name: data for name, data in extra.items() if data is not None},
        )

    @cached_property
    def base(self) -> StageResult:
        """The pretrained model."""
        if self.config.pretrain is None:
            raise ConfigError("this configuration has no `pretrain`: it makes data only")
        return pretrain(
            self.config.pretrain, context=self.context, label=self.config.name, packed=self.packed
        )

    @cached_property
    def bits_per_byte(self) -> StageResult:
        """Bits per byte of the base model on each kind of text that is held out."""
        if self.held_out is None:
            raise ConfigError("this configuration holds no texts out: it has no `held_out`")
        result = bits_per_byte(
            BitsPerByteConfig(dtype=self.config.evaluate.dtype),
            context=self.context,
            label=self.config.name,
            model=self.base,
            held_out=self.held_out,
        )
        self.context.tracker.scores(self.base.manifest, result.manifest["counts"])
        return result

    @cached_property
    def tuned(self) -> dict[str, StageResult]:
        """One SFT model for each mixture."""
        return {mixture: self.tune(mixture) for mixture in self.config.mixtures}

    def tune(self, mixture: str) -> StageResult:
        """The SFT model of one mixture."""
        if self.config.sft is None or self.sft_data is None:
            raise ConfigError("this configuration has no `sft` and `sft_sets`")
        return sft(
            self.config.sft_of(mixture),
            context=self.context,
            label=mixture,
            base=self.base,
            data=self.sft_data,
            benchmarks=self.benchmarks if self.config.sft.contamination.action != "off" else None,
        )

    @cached_property
    def aligned(self) -> StageResult | None:
        """The DPO model."""
        if self.config.dpo is None or self.config.policy_mixture is None:
            return None
        return dpo(
            self.config.dpo,
            context=self.context,
            policy=self.tuned[self.config.policy_mixture],
            data=self.preference_data,
            benchmarks=self.benchmarks if self.config.dpo.contamination.action != "off" else None,
        )

    @cached_property
    def models(self) -> dict[str, StageResult]:
        """Every trained model, by the name it has in tables and charts."""
        models = {"base": self.base}
        models |= {f"sft {mixture}": model for mixture, model in self.tuned.items()}
        if self.aligned is not None:
            models["dpo"] = self.aligned
        return models

    @cached_property
    def evaluations(self) -> dict[str, StageResult]:
        """Each model's scores."""
        return {name: self.score(name, model) for name, model in self.models.items()}

    def score(self, name: str, model: StageResult) -> StageResult:
        """One model's scores, recorded with the model."""
        if self.benchmarks is None:
            raise ConfigError("this configuration has no `benchmarks` to evaluate on")
        result = evaluate(
            self.config.evaluate,
            context=self.context,
            label=name,
            model=model,
            benchmarks=self.benchmarks,
        )
        self.context.tracker.scores(model.manifest, result.manifest["counts"])
        return result

    @cached_property
    def report(self) -> StageResult:
        """Tables, curves and provenance of everything above."""
        evaluations = self.evaluations if self.benchmarks is not None else {}
        titled = replace(self.config.report, title=self.config.report.title or self.config.name)
        return report(
            titled,
            context=self.context,
            normalized=self.normalized,
            cleaned=self.cleaned,
            packed=self.packed,
            pretrain=self.base,
            sft=self.tuned,
            dpo=self.aligned,
            evaluations=evaluations,
            kernels=newest(self.context.store, "kernel_table"),
        )
