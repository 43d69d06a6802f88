"""Configuration of a pipeline: the content of a file in `deployments/`.

Each stage documents its own fields (tasks/).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from common.config import INCOMPLETE, Config, did_you_mean, problems, raise_all, shown_place
from common.errors import ConfigError, SteelError, shown
from common.names import Distinct, Name, NamesOf
from common.paths import display, resolve
from common.ranges import Gt, Le, NonNegativeInt
from common.recipes import Parsed, apply_overrides, parse, read_yaml
from corpus.held_out_texts import HeldOutSet
from corpus.sample_data import DatasetKind, SampleDataConfig
from flows.checks.contradictions import benchmark_list_problems, post_training_problems
from flows.targets import Target
from model.architecture import LEAKING_ROUTINGS
from tasks.acquire import AcquireConfig
from tasks.checkpoint_scores import CheckpointScoresConfig
from tasks.clean import CleanConfig
from tasks.contamination import ContaminationCheckConfig
from tasks.core.waiting.devices import DevicesConfig
from tasks.dpo import DpoConfig
from tasks.evaluate import EvaluateConfig
from tasks.hold_out import HoldOutConfig
from tasks.normalize import NormalizeConfig
from tasks.pack import PackConfig
from tasks.pretrain import PretrainConfig
from tasks.report import ReportConfig
from tasks.sft import SftConfig

KINDS: Mapping[DatasetKind, str] = {
    "corpora": "corpora",
    "sft": "sft_sets",
    "preferences": "preference_sets",
    "evals": "benchmarks",
}
"""Kind of data set (a folder of data_recipes/) -> the key that lists those of a pipeline."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Config):
    """Part of each corpus to take; always the same one (corpus/sources/sampling.py)."""

    fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of each corpus, in bytes as stored; above 0, at most 1."""
    limit: NonNegativeInt = 0
    """Records (lines, items, rows) of each corpus at most; 0 for all."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Config):
    """A whole pipeline, from raw corpora to the report."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "sample_world": "sample_data",
        "pretrain.validation_fraction": "pack.validation_fraction",
    }

    name: Name
    """Name of the pipeline; names the MLflow run and the report."""
    corpora: NamesOf[str] = field(default_factory=dict)
    """Corpus (a recipe in data_recipes/corpora) -> its location: `sample-data`, `hub`, a path,
    folder or glob relative to the project's root, or a URL of one (https://, s3://, hf://, …). Or
    `{location: …, text_key: …, optional: true}`; see `normalize.text_keys`, `optional_corpora`."""
    sft_sets: NamesOf[str] = field(default_factory=dict)
    """SFT set (data_recipes/sft) -> its location."""
    preference_sets: NamesOf[str] = field(default_factory=dict)
    """Preference set (data_recipes/preferences) -> its location."""
    benchmarks: NamesOf[str] = field(default_factory=dict)
    """Benchmark that models are scored on (data_recipes/evals) -> its location. Adding one makes
    nothing anew but the scores, and SFT and DPO where they are screened for its questions."""
    decontaminate: NamesOf[str] | None = None
    """Benchmark whose questions cleaning takes out of the corpora -> its location; `{}` for none.
    In the key of the cleaned corpora, and of what is made of them: the pretraining."""
    sample_data: SampleDataConfig | None = None
    """The generator behind the location `sample-data`."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Take only a part of each corpus; the command line's `--fraction` and `--limit`."""
    held_out: NamesOf[HeldOutSet] = field(default_factory=dict)
    """Kind of text -> documents that no model is trained on, to score models on in bits per byte
    (`steel/data-ablation`). Taken out before cleaning."""
    optional_corpora: Annotated[list[Name], Distinct] = field(default_factory=list)
    """Corpora that may be missing or keep no document: reported as empty, not refused. A recipe of
    a corpus may say `optional: true` itself."""
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    """Conversion of native formats to one."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """Data-Juicer recipes, language model, decontamination, attrition gates."""
    pack: PackConfig = field(default_factory=PackConfig)
    """Tokenizer and shards."""
    pretrain: PretrainConfig | None = None
    """Model, data order, optimizer, schedule, parallelism; absent: only data are made."""
    mixtures: Annotated[list[Name], Distinct] = field(default_factory=list)
    """SFT mixtures (data_recipes/mixtures), each trained from the same base with the settings of
    `sft` (paper: Table 3)."""
    sft: SftConfig | None = field(default=None, metadata=INCOMPLETE)
    """Settings of supervised fine-tuning; its own `mixture` is replaced by each of `mixtures`."""
    dpo: DpoConfig | None = None
    """Settings of direct preference optimisation; absent: no DPO."""
    dpo_policy: Name | None = None
    """Mixture whose SFT model DPO starts from; absent: the last of `mixtures`."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Benchmarks' settings."""
    checkpoint_scores: CheckpointScoresConfig = field(default_factory=CheckpointScoresConfig)
    """Evaluation of a pretraining's checkpoints (`steel evaluate-checkpoints`)."""
    contamination: ContaminationCheckConfig = field(default_factory=ContaminationCheckConfig)
    """Search of the cleaned corpora for questions of `benchmarks`, which takes nothing out."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The report."""
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    """Wait, refuse or share while others have the GPUs; in no stage's key."""

    def check(self) -> Iterator[SteelError]:
        yield from post_training_problems(self)
        yield from benchmark_list_problems(self)
        if self.pretrain is not None and not self.pack.validation_fraction:
            yield from self._needs_validation(self.pretrain)
        for name in sorted(set(self.optional_corpora) - self.corpora.keys()):
            near = did_you_mean(name, self.corpora)
            yield ConfigError(f"optional_corpora: {shown(name)} is none of `corpora`{near}")
        for name in sorted(self.normalize.text_keys.keys() - self.corpora.keys()):
            near = did_you_mean(name, self.corpora)
            yield ConfigError(f"normalize.text_keys: {shown(name)} is none of `corpora`{near}")
        for kind, key in KINDS.items():
            yield from problems(self.acquire(kind), key)
        yield from problems(self.acquire_sets("evals", self.decontaminate or {}), "decontaminate")
        yield from problems(HoldOutConfig(sets=self.held_out), "held_out")
        for name, one in self.held_out.items():
            for source in sorted({*one.corpora} - self.corpora.keys()):
                near = did_you_mean(source, self.corpora)
                yield ConfigError(
                    f"held_out.{name}.corpora: {shown(source)} is none of `corpora`{near}"
                )
        weighed = self.pretrain.weights.keys() if self.pretrain is not None else set()
        for source in sorted(weighed - self.corpora.keys()):
            near = did_you_mean(source, self.corpora)
            yield ConfigError(
                f"pretrain.weights: {shown(source)} is no source of the packed data; they come "
                f"from {', '.join(sorted(self.corpora))}{near}"
            )
        for name in sorted({*self.checkpoint_scores.benchmarks} - self.benchmarks.keys()):
            near = did_you_mean(name, self.benchmarks)
            yield ConfigError(
                f"checkpoint_scores.benchmarks: {shown(name)} is none of `benchmarks`{near}"
            )
        yield from self.clean.check_sources(self.corpora)
        for mixture in self.mixtures if self.sft is not None else ():
            yield from problems(self.sft_of(mixture), "sft")

    @staticmethod
    def _needs_validation(pretrain: PretrainConfig) -> Iterator[ConfigError]:
        """Yield an error for each setting that is in vain where nothing is held out."""
        remedy = "set pack.validation_fraction (for example 0.01)"
        if pretrain.eval_interval:
            yield ConfigError(
                f"pretrain.eval_interval = {pretrain.eval_interval}, but "
                f"pack.validation_fraction = 0 holds nothing out; {remedy}"
            )
        model = pretrain.model
        routing = model.get("routing") if isinstance(model, dict) else None
        if routing in LEAKING_ROUTINGS:
            yield ConfigError(
                f"pretrain.model.routing = {routing!r} leaks, so its training loss says nothing, "
                f"but pack.validation_fraction = 0 holds nothing out; {remedy}"
            )

    @property
    def pretrains(self) -> bool:
        """True if there is a base model to make; settings of a base alone ask for none."""
        return self.pretrain is not None and bool(self.corpora)

    @property
    def removed(self) -> Mapping[str, str]:
        """Benchmarks whose questions are taken out of the corpora, and their locations."""
        off = self.clean.contamination.action == "off"
        return {} if off else self.decontaminate or {}

    @property
    def screened(self) -> Mapping[str, str]:
        """Benchmarks whose questions may be looked for in data of later stages."""
        return {**(self.decontaminate or {}), **self.benchmarks}

    @property
    def aligns(self) -> bool:
        """True if there is a DPO model to make."""
        if self.dpo is None or not self.preference_sets:
            return False
        return bool(self.dpo.policy_model or self.policy_mixture)

    @property
    def last_target(self) -> Target:
        """The target of a whole run: the report, or the data of a configuration of data alone."""
        makes_models = self.pretrains or self.mixtures or self.aligns or self.evaluate.models
        return "report" if makes_models else "data"

    def check_target(self, target: Target) -> None:
        """Raise ConfigError where there is nothing to make of a target."""
        missing = {
            "data": "" if self.corpora else "no `corpora`",
            "pretrain": "" if self.pretrains else "no `corpora` with `pretrain` settings",
            "sft": "" if self.mixtures else "no `mixtures`",
            "dpo": "" if self.aligns else "no `dpo` settings with `preference_sets` and a policy",
            "evaluate": "" if self.benchmarks else "no `benchmarks` to evaluate on",
            "report": "",
        }[target]
        if missing:
            raise ConfigError(f"there is nothing to make for {target}: {self.name} has {missing}")

    @property
    def policy_mixture(self) -> str | None:
        """The mixture whose model DPO starts from."""
        return self.dpo_policy or (self.mixtures[-1] if self.mixtures else None)

    def acquire(self, kind: DatasetKind) -> AcquireConfig:
        """The stage `acquire` for one kind of data set."""
        return self.acquire_sets(kind, getattr(self, KINDS[kind]))

    def acquire_sets(self, kind: DatasetKind, datasets: Mapping[str, str]) -> AcquireConfig:
        """The stage `acquire` for some data sets of a kind."""
        # Other data sets do not depend on the generator's settings.
        generated = "sample-data" in datasets.values()
        sample = self.sample if kind == "corpora" else SampleConfig()
        return AcquireConfig(
            kind=kind,
            datasets=datasets,
            sample_data=self.sample_data if generated else None,
            fraction=sample.fraction,
            limit=sample.limit,
            optional=tuple(self.optional_corpora) if kind == "corpora" else (),
        )

    def sft_of(self, mixture: str) -> SftConfig:
        """The SFT settings with one mixture."""
        assert self.sft is not None
        return replace(self.sft, mixture=mixture)

    def dpo_of(self) -> DpoConfig:
        """The DPO settings with the names of their sets: every one there is where none is named."""
        assert self.dpo is not None
        return replace(self.dpo, sets=self.dpo.sets or tuple(sorted(self.preference_sets)))


def parse_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Parsed[PipelineConfig]:
    """Read `deployments/<x>.yaml` with overrides, and collect wrong keys and values.

    Raises ConfigError for a file or an override that cannot be read at all.
    """
    data = _spelled_out(apply_overrides(read_yaml(resolve(path)), overrides))
    refused = list(_refuse_second_list(data))
    parsed = parse(PipelineConfig, data)
    return replace(parsed, problems=[*refused, *parsed.problems])


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """`deployments/<x>.yaml` with overrides. Raises ConfigError that lists every wrong key and
    value; data and contradictions are looked at by flows/preflight.py."""
    parsed = parse_pipeline(path, overrides)
    raise_all(parsed.problems, display(resolve(path)))
    assert parsed.value is not None
    return parsed.value


def _refuse_second_list(data: dict[str, Any]) -> Iterator[SteelError]:
    """Take the former list under `evaluate` out of a configuration; yield the line to write."""
    stage = data.get("evaluate")
    if not isinstance(stage, Mapping) or "benchmarks" not in stage:
        return
    data["evaluate"] = {key: value for key, value in stage.items() if key != "benchmarks"}
    named, there = stage["benchmarks"], data.get("benchmarks")
    known = there if isinstance(there, Mapping) else {}
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    lines = ", ".join(f"{name}: {known.get(name, '<location>')}" for name in names) or "…"
    yield ConfigError(
        "`benchmarks` under `evaluate` is gone: those that are scored are those under `benchmarks` "
        f"at the top level. Write there `benchmarks: {{{lines}}}`"
    )


def _spelled_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with `corpora.<name>: {location, text_key, optional}` as the three keys of
    the pipeline that it stands for. Raises ConfigError for a mapping that is not of this form."""
    result = dict(data)
    corpora = result.get("corpora")
    if not isinstance(corpora, Mapping):
        return result
    forms = {name: form for name, form in corpora.items() if isinstance(form, Mapping)}
    for name, form in forms.items():
        place = f"corpora.{shown_place(str(name))}"
        if unknown := [key for key in form if key not in ("location", "text_key", "optional")]:
            raise ConfigError(
                f"{place}: unknown key {shown(unknown[0])}; the keys are location, text_key, "
                "optional. What else describes a corpus stands in its recipe"
            )
        if not isinstance(form.get("location"), str):
            raise ConfigError(f"{place}.location must be text: a path, a URL, 'hub', 'sample-data'")
        if not isinstance(form.get("optional", False), bool):
            raise ConfigError(f"{place}.optional must be true or false")
    if forms:
        result["corpora"] = {
            name: forms[name]["location"] if name in forms else location
            for name, location in corpora.items()
        }
    if may_be_empty := [name for name, form in forms.items() if form.get("optional")]:
        known = result.get("optional_corpora") or []
        if isinstance(known, list):
            result["optional_corpora"] = [*known, *(n for n in may_be_empty if n not in known)]
    if keys := {name: form["text_key"] for name, form in forms.items() if "text_key" in form}:
        stage = result.get("normalize") or {}
        if isinstance(stage, Mapping) and isinstance(stage.get("text_keys", {}), Mapping):
            result["normalize"] = {**stage, "text_keys": {**stage.get("text_keys", {}), **keys}}
    return result
