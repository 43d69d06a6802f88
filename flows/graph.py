"""The pipeline as a graph: each property is a stage, and names its inputs.

    corpora ─▶ normalized ─▶ cleaned ─▶ packed ─▶ base ─▶ tuned[mixture] ─▶ aligned
                   │            │   └──────▶ contamination ◀── benchmarks
                   └─▶ held_out (before cleaning) ──▶ bits_per_byte (base)
    decontaminate ──────────────┴────────────────────────┬────────────────────┐
    sft_data (those of the mixture) ─────────────────────┤                    │
    preference_data ─────────────────────────────────────┼────────────────────┤
    benchmarks ──────────────────────────────────────────┴────────────────────┘
      └────▶ evaluations[base, each mixture, dpo, given models] ─▶ adjusted ─▶ report

Reading a property makes that stage and everything it needs; stages that are finished in the store
are skipped. `benchmarks`, and data sets of later stages, reach no stage up to `base`: what is
chosen after pretraining never asks for another pretraining. A data set is acquired by itself, so
that one more changes no stage that does not use it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from common.config import raise_all
from common.errors import ConfigError
from corpus.benchmarks.open_questions import is_open
from corpus.decontaminate import ContaminationConfig
from corpus.sample_data import DatasetKind
from flows.config import PipelineConfig
from flows.targets import Target
from flows.training_texts import adjusted_config, training_texts
from tasks.acquire import acquire
from tasks.bits_per_byte import BitsPerByteConfig, bits_per_byte
from tasks.checkpoint_scores.curves import curves_of
from tasks.clean import clean, enforce
from tasks.contamination import contamination
from tasks.core.given_model import given_model
from tasks.core.plan import Plan, PlannedStage, no_tracker
from tasks.core.stage import Context, StageResult
from tasks.core.store import newest
from tasks.dpo import dpo
from tasks.evaluate import benchmark_problems, evaluate
from tasks.evaluate.adjusted import adjusted_scores
from tasks.hold_out import HoldOutConfig, hold_out
from tasks.normalize import normalize
from tasks.pack import pack
from tasks.pretrain import pretrain
from tasks.refresh.records import acquired_corpora
from tasks.report import report
from tasks.sft import needed_sets, sft

TARGETS: dict[Target, str] = {
    "data": "packed",
    "pretrain": "base",
    "sft": "tuned",
    "dpo": "aligned",
    "evaluate": "adjusted",
    "report": "report",
}
"""Targets, which a run can be asked for by name -> the property of `Pipeline` that makes each."""

NO_SEARCH = ContaminationConfig(action="off")
"""In the place of settings of a search that is not made: they are in no key then."""


def _chosen(
    benchmarks: Mapping[str, StageResult], names: Collection[str]
) -> dict[str, StageResult]:
    """Those of the benchmarks that are named; all where none is."""
    return {name: one for name, one in benchmarks.items() if not names or name in names}


@dataclass(frozen=True)
class Pipeline:
    """All stages of one configuration."""

    config: PipelineConfig
    context: Context
    vocabulary: Mapping[str, StageResult] = field(default_factory=dict)
    """Further texts whose words a pruned vocabulary knows, by name."""
    _made: dict[tuple[str, ...], StageResult] = field(default_factory=dict, compare=False)
    """Data sets that were acquired, models of a path, and models of mixtures."""

    def prepare(self, target: Target) -> None:
        """Acquire the data that the stages up to a target need: what is not there, or damaged, is
        found before anything is trained.

        Raises ConfigError for a target that this configuration does not make, DataError for data.
        """
        self.config.check_target(target)
        if target in ("sft", "dpo", "evaluate", "report"):
            for mixture in self.config.mixtures:
                self.sft_data(mixture)
        if target in ("dpo", "evaluate", "report") and self.config.aligns:
            self.preference_data  # noqa: B018 - reading it makes it
        if target in ("evaluate", "report"):
            self.benchmarks  # noqa: B018

    def data_sets(self, kind: DatasetKind, datasets: Mapping[str, str]) -> dict[str, StageResult]:
        """Data sets, each brought in by a stage of its own: a location is read once."""
        found = {}
        for name, location in datasets.items():
            place = (kind, name, location)
            if place not in self._made:
                config = self.config.acquire_sets(kind, {name: location})
                self._made[place] = acquire(config, context=self.context, label=f"{kind} {name}")
            found[name] = self._made[place]
        return found

    @cached_property
    def corpora(self) -> StageResult:
        """Raw pretraining corpora; those that the training began with, if it got the new ones."""
        if not self.config.corpora:
            raise ConfigError("this configuration has no `corpora`")
        return acquired_corpora(self.config.acquire("corpora"), self.context, self._training_on)

    def _training_on(self, corpora: StageResult, context: Context) -> str:
        """Key of the pretraining on given corpora, as planned; empty where there is none."""
        trial = replace(self, context=context, _made={})
        vars(trial)["corpora"] = corpora
        return trial.base.key if self.config.pretrain is not None else ""

    def sft_data(self, mixture: str) -> dict[str, StageResult]:
        """Raw SFT sets of a mixture."""
        sets = self.config.sft_sets
        names = needed_sets(self.config.sft_of(mixture))
        return self.data_sets("sft", {name: sets[name] for name in names if name in sets})

    @cached_property
    def preference_data(self) -> dict[str, StageResult]:
        """Raw preference pairs that DPO is trained on."""
        sets = self.config.preference_sets
        names = self.config.dpo_of().sets
        return self.data_sets("preferences", {name: sets[name] for name in names if name in sets})

    @cached_property
    def benchmarks(self) -> dict[str, StageResult]:
        """Files of the benchmarks that are evaluated."""
        return self._benchmarks(self.config.benchmarks, scored=True)

    @cached_property
    def removed(self) -> dict[str, StageResult]:
        """Files of the benchmarks whose questions are taken out of the corpora."""
        return self._benchmarks(self.config.removed, scored=False)

    @cached_property
    def screened(self) -> dict[str, StageResult]:
        """Files of the benchmarks whose questions are looked for in data of later stages."""
        return self._benchmarks(self.config.screened, scored=False)

    def _benchmarks(self, locations: Mapping[str, str], *, scored: bool) -> dict[str, StageResult]:
        acquired = self.data_sets("evals", locations)
        if not self.context.planned:  # before anything is trained
            folders = {name: result.folder / name for name, result in acquired.items()}
            found = benchmark_problems(self.config.evaluate, folders, scored=scored)
            raise_all(list(found), "benchmarks" if scored else "decontaminate")
        return acquired

    @cached_property
    def normalized(self) -> StageResult:
        """Corpora in the one format."""
        config = replace(
            self.config.normalize,
            corpora=self.config.normalize.corpora or tuple(sorted(self.config.corpora)),
            optional=tuple(self.config.optional_corpora),
        )
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
        """Documents that cleaning kept, without questions of the benchmarks in `decontaminate`."""
        config = self.config.clean
        removed = _chosen(self.removed, config.contamination.benchmarks)
        if not removed:  # how they would be looked for is no matter then
            config = replace(config, contamination=NO_SEARCH)
        result = clean(
            replace(
                config,
                sources=tuple(self.config.corpora),
                optional=tuple(self.config.optional_corpora),
            ),
            context=self.context,
            normalized=self.held_out or self.normalized,
            benchmarks=removed or None,
        )
        if not self.context.planned:
            enforce(result, self.config.clean)
        return result

    @cached_property
    def contamination(self) -> StageResult | None:
        """Questions of the evaluated benchmarks that the cleaned corpora contain, if there are both
        and they are to be looked for. No training waits for it."""
        config = self.config.contamination
        if not (config.enabled and self.config.corpora and self.config.benchmarks):
            return None
        inputs = {"cleaned": self.cleaned, "benchmarks": self.benchmarks}
        return contamination(config, context=self.context, **inputs)

    @cached_property
    def packed(self) -> StageResult:
        """Tokenizer and token shards. A pruned vocabulary covers the texts that it states, too."""
        return pack(
            self.config.pack,
            context=self.context,
            cleaned=self.cleaned,
            extra_text=self._covered() if self.config.pack.prune else {},
        )

    def _covered(self) -> dict[str, StageResult]:
        """Texts beside the corpora that a pruned vocabulary covers."""
        stated = self.config.pack.vocabulary
        sft_sets = {name: self.config.sft_sets[name] for name in stated.sft_sets}
        pairs = {name: self.config.preference_sets[name] for name in stated.preference_sets}
        return {
            **{f"sft/{n}": result for n, result in self.data_sets("sft", sft_sets).items()},
            **{f"preferences/{n}": r for n, r in self.data_sets("preferences", pairs).items()},
            **self.vocabulary,
        }

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
        config = BitsPerByteConfig(dtype=self.config.evaluate.dtype)
        inputs = {"model": self.base, "held_out": self.held_out}
        result = bits_per_byte(config, context=self.context, label=self.config.name, **inputs)
        self.context.tracker.scores(self.base.manifest, result.manifest)
        return result

    def given(self, path: str) -> StageResult:
        """The model in a folder."""
        place = ("model", path)
        if place not in self._made:
            self._made[place] = given_model(path)
        return self._made[place]

    @property
    def start(self) -> StageResult:
        """The model that fine-tuning starts from: the one in a given folder, or the base."""
        given = self.config.sft.base_model if self.config.sft is not None else ""
        return self.given(given) if given else self.base

    @cached_property
    def tuned(self) -> dict[str, StageResult]:
        """One SFT model for each mixture."""
        return {mixture: self.tune(mixture) for mixture in self.config.mixtures}

    def tune(self, mixture: str, label: str = "") -> StageResult:
        """The SFT model of one mixture. label: of its runs, default: the mixture's name."""
        if self.config.sft is None or not self.config.sft_sets:
            raise ConfigError("this configuration has no `sft` and `sft_sets`")
        place = ("sft", mixture)
        if place not in self._made:
            config = self.config.sft_of(mixture)
            questions = self._screened(config.contamination)
            self._made[place] = sft(
                config if questions else replace(config, contamination=NO_SEARCH),
                context=self.context,
                label=label or mixture,
                base=self.start,
                data=self.sft_data(mixture),
                benchmarks=questions,
            )
        return self._made[place]

    def _screened(self, search: ContaminationConfig) -> dict[str, StageResult] | None:
        """Benchmarks whose questions are looked for in the data of a fine-tuning; None for none."""
        off = search.action == "off"
        return None if off else _chosen(self.screened, search.benchmarks) or None

    @cached_property
    def aligned(self) -> StageResult | None:
        """The DPO model."""
        if not self.config.aligns:
            return None
        config = self.config.dpo_of()
        if config.policy_model:
            policy = self.given(config.policy_model)
        else:
            assert self.config.policy_mixture is not None
            policy = self.tune(self.config.policy_mixture)
        questions = self._screened(config.contamination)
        return dpo(
            config if questions else replace(config, contamination=NO_SEARCH),
            context=self.context,
            policy=policy,
            data=self.preference_data,
            benchmarks=questions,
        )

    @cached_property
    def models(self) -> dict[str, StageResult]:
        """Every model that is scored, by the name it has in tables and charts."""
        models = {"base": self.base} if self.config.pretrains else {}
        models |= {f"sft {mixture}": model for mixture, model in self.tuned.items()}
        if self.aligned is not None:
            models["dpo"] = self.aligned
        return models | {n: self.given(path) for n, path in self.config.evaluate.models.items()}

    @cached_property
    def evaluations(self) -> dict[str, StageResult]:
        """Each model's scores."""
        return {name: self.score(name, model) for name, model in self.models.items()}

    def score(self, name: str, model: StageResult) -> StageResult:
        """One model's scores, recorded with the model."""
        if not self.benchmarks:
            raise ConfigError("this configuration has no `benchmarks` to evaluate on")
        result = evaluate(
            self.config.evaluate,
            context=self.context,
            label=name,
            model=model,
            benchmarks=self.benchmarks,
        )
        self.context.tracker.scores(model.manifest, result.manifest)
        return result

    @cached_property
    def adjusted(self) -> dict[str, StageResult]:
        """Each model's scores on contaminated questions, and on the others."""
        return {n: self.adjust(n, m, self.evaluations[n]) for n, m in self.models.items()}

    def adjust(self, name: str, model: StageResult, scores: StageResult) -> StageResult:
        """One model's contamination-adjusted scores, recorded with the model."""
        settings = self.config.evaluate
        chosen = {n: one for n, one in self.benchmarks.items() if not is_open(n)}
        further = {
            str(number): evaluate(
                settings.with_fewshot(number),
                context=self.context,
                label=f"{name} {number}-shot",
                model=model,
                benchmarks=chosen,
            )
            for number in (settings.further_num_fewshot if chosen else ())
        }
        texts = training_texts(self, model)
        result = adjusted_scores(
            adjusted_config(self.config, texts),
            context=self.context,
            label=name,
            evaluations={str(settings.num_fewshot): scores, **further},
            benchmarks=self.benchmarks,
            **texts.stages,
        )
        self.context.tracker.scores(model.manifest, result.manifest)
        return result

    @cached_property
    def report(self) -> StageResult:
        """Tables, curves and provenance of everything above."""
        titled = replace(self.config.report, title=self.config.report.title or self.config.name)
        has_data = bool(self.config.corpora)
        return report(
            titled,
            context=self.context,
            normalized=self.normalized if has_data else None,
            cleaned=self.cleaned if has_data else None,
            packed=self.packed if has_data else None,
            pretrain=self.base if self.config.pretrains else None,
            sft=self.tuned,
            dpo=self.aligned,
            evaluations=self.evaluations if self.benchmarks else {},
            kernels=newest(self.context.store, "kernel_table"),
            contamination=self.contamination,
            adjusted=self.adjusted if self.benchmarks else {},
            checkpoints=curves_of(self.context.store, self.base if self.config.pretrains else None),
        )


def planned(config: PipelineConfig, store: Path, *, absent: bool = False) -> list[PlannedStage]:
    """The stages of a whole run, with their keys; none is made.

    absent: True lets data be missing on this machine; keys are then not those of a run.
    Raises SteelError for files that keys depend on and that are not there.
    """
    plan = Plan(absent=absent)
    pipeline = Pipeline(config, Context(store=store, tracker=no_tracker(), plan=plan))
    pipeline.prepare(config.last_target)
    getattr(pipeline, TARGETS[config.last_target])
    return plan.stages
