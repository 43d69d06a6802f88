"""Configuration of a pipeline: the content of a file in `deployments/`.

Each stage documents its own fields (tasks/).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from common.config import INCOMPLETE, Config, did_you_mean, problems, shown_place
from common.errors import ConfigError, SteelError, shown
from common.names import Distinct, Name, NamesOf
from common.paths import resolve
from common.ranges import Gt, Le, MinLen, NonNegativeInt
from common.recipes import Parsed, apply_overrides, parse, read_yaml
from corpus.held_out_texts import HeldOutSet
from corpus.sample_data import DatasetKind, SampleDataConfig
from model.architecture import LEAKING_ROUTINGS
from tasks.acquire import AcquireConfig
from tasks.clean import CleanConfig
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
    corpora: Annotated[dict[Name, str], MinLen(1), Distinct]
    """Corpus (a recipe in data_recipes/corpora) -> its location: `sample-data`, `hub`, a path,
    folder or glob relative to the project's root, or a URL of one (https://, s3://, hf://, …). Or
    `{location: …, text_key: …, optional: true}`; see `normalize.text_keys`, `optional_corpora`."""
    sft_sets: NamesOf[str] = field(default_factory=dict)
    """SFT set (data_recipes/sft) -> its location."""
    preference_sets: NamesOf[str] = field(default_factory=dict)
    """Preference set (data_recipes/preferences) -> its location."""
    benchmarks: NamesOf[str] = field(default_factory=dict)
    """Benchmark (data_recipes/evals) -> its location."""
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
    report: ReportConfig = field(default_factory=ReportConfig)
    """The report."""

    def check(self) -> Iterator[SteelError]:
        if self.mixtures and self.sft is None:
            yield ConfigError("`mixtures` are given, but no `sft` settings to train them with")
        if self.mixtures and not self.sft_sets:
            yield ConfigError("`mixtures` are given, but no `sft_sets` to mix")
        if len(set(self.mixtures)) < len(self.mixtures):
            yield ConfigError(f"`mixtures` names one twice: {self.mixtures}")
        # Settings alone, of a base for instance, ask for no DPO.
        asked = bool(self.mixtures or self.preference_sets)
        if self.pretrain is None and self.mixtures:
            yield ConfigError("`mixtures` are given, but no `pretrain` settings of their base")
        if self.dpo is not None and asked and not self.mixtures:
            yield ConfigError("`dpo` is given, but no `mixtures` whose model it could start from")
        elif self.dpo is not None and asked and self.policy_mixture not in self.mixtures:
            yield ConfigError(
                f"`dpo_policy` {self.policy_mixture!r} is not one of `mixtures` {self.mixtures}"
            )
        if self.dpo is not None and asked and not self.preference_sets:
            yield ConfigError("`dpo` is given, but no `preference_sets`")
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
    def policy_mixture(self) -> str | None:
        """The mixture whose model DPO starts from."""
        return self.dpo_policy or (self.mixtures[-1] if self.mixtures else None)

    def acquire(self, kind: DatasetKind) -> AcquireConfig:
        """The stage `acquire` for one kind of data set."""
        datasets: dict[str, str] = getattr(self, KINDS[kind])
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


def parse_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Parsed[PipelineConfig]:
    """Read `deployments/<x>.yaml` with overrides, and collect wrong keys and values.

    Raises ConfigError for a file or an override that cannot be read at all.
    """
    return parse(PipelineConfig, _spelled_out(apply_overrides(read_yaml(resolve(path)), overrides)))


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
