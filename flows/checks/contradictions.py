"""Contradictions between the stages of a configuration, as far as it says them itself."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from common.config import did_you_mean
from common.errors import ConfigError, SteelError, shown
from tasks.core.finetune import FinetuneConfig
from tasks.sft import SftConfig, needed_sets

if TYPE_CHECKING:
    from flows.config import PipelineConfig


def post_training_problems(config: "PipelineConfig") -> Iterator[SteelError]:
    """Yield an error for each stage after pretraining that lacks a model, data or settings."""
    yield from _mixture_problems(config)
    yield from _dpo_problems(config)
    yield from _model_problems(config)
    stated = config.pack.vocabulary
    lists = (
        ("sft_sets", stated.sft_sets, config.sft_sets),
        ("preference_sets", stated.preference_sets, config.preference_sets),
    )
    for key, names, there in lists:
        yield from _unknown(f"pack.vocabulary.{key}", names, there, key)


def _mixture_problems(config: "PipelineConfig") -> Iterator[SteelError]:
    if not config.mixtures:
        return
    if config.sft is None:
        yield ConfigError("`mixtures` are given, but no `sft` settings to train them with")
    if not config.sft_sets:
        yield ConfigError("`mixtures` are given, but no `sft_sets` to mix")
    if len(set(config.mixtures)) < len(config.mixtures):
        yield ConfigError(f"`mixtures` names one twice: {config.mixtures}")
    if config.sft is None or not config.sft.base_model:
        if config.pretrain is None:
            yield ConfigError(
                "`mixtures` are given, but no `pretrain` settings of their base; give them, or the "
                "folder of a model as sft.base_model"
            )
        elif not config.corpora:
            yield ConfigError(
                "`mixtures` are given, but no `corpora` to pretrain their base on; give them, or "
                "the folder of a model as sft.base_model"
            )
    for mixture in config.mixtures if config.sft is not None and config.sft_sets else ():
        missing = [n for n in sets_of(config.sft_of(mixture)) if n not in config.sft_sets]
        if missing:
            yield ConfigError(
                f"mixtures: {mixture} draws from {', '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not in `sft_sets`: add "
                f"{', '.join(f'`{name}: <location>`' for name in missing)} there, or leave the "
                "mixture out"
            )


def sets_of(config: SftConfig) -> list[str]:
    """Sets of a mixture; none for one that is wrong, which its stage reports."""
    try:
        return needed_sets(config)
    except SteelError:
        return []


def _dpo_problems(config: "PipelineConfig") -> Iterator[SteelError]:
    # Settings alone, of a base for instance, ask for no DPO.
    if config.dpo is None or not (config.mixtures or config.preference_sets):
        return
    if config.dpo.policy_model:
        if config.dpo_policy is not None:
            yield ConfigError(
                f"`dpo_policy` {config.dpo_policy!r} and dpo.policy_model = "
                f"{config.dpo.policy_model!r} are both given: leave out one"
            )
    elif not config.mixtures:
        yield ConfigError(
            "`dpo` is given, but no `mixtures` whose model it could start from; give them, or the "
            "folder of a model as dpo.policy_model"
        )
    elif config.policy_mixture not in config.mixtures:
        yield ConfigError(
            f"`dpo_policy` {config.policy_mixture!r} is not one of `mixtures` {config.mixtures}"
        )
    if not config.preference_sets:
        yield ConfigError(
            "`dpo` is given, but no `preference_sets`; give them, or `dpo: null` where no DPO is "
            "wanted"
        )
    else:
        yield from _unknown("dpo.sets", config.dpo.sets, config.preference_sets, "preference_sets")


def _model_problems(config: "PipelineConfig") -> Iterator[SteelError]:
    made = {"base", "dpo", *(f"sft {mixture}" for mixture in config.mixtures)}
    for name in config.evaluate.models:
        if name in made:
            yield ConfigError(
                f"evaluate.models: {name!r} is the name of a model that this pipeline makes; give "
                "it another"
            )
    if config.evaluate.models and not config.benchmarks:
        yield ConfigError("evaluate.models are given, but no `benchmarks` to score them on")
    if not (config.corpora or config.mixtures or config.preference_sets or config.evaluate.models):
        yield ConfigError(
            "there is nothing to make: give `corpora`; or `mixtures` with `sft_sets` and "
            "sft.base_model; or `preference_sets` with dpo.policy_model; or evaluate.models with "
            "`benchmarks`"
        )


def benchmark_list_problems(config: "PipelineConfig") -> Iterator[SteelError]:
    """Yield an error for benchmarks of which it is not said if cleaning removes them, and for
    searches that name benchmarks that are not there."""
    removes = config.clean.contamination.action != "off"
    if config.decontaminate is None and config.benchmarks and config.corpora and removes:
        lines = ", ".join(f"{name}: {location}" for name, location in config.benchmarks.items())
        yield ConfigError(
            "`benchmarks` are given, but not which of them cleaning takes out of the corpora. To "
            f"take out all, write `decontaminate: {{{lines}}}`; for none, `decontaminate: {{}}`. "
            "Whoever changes it later cleans, packs and pretrains again"
        )
    if config.decontaminate is not None:
        named, known = config.clean.contamination.benchmarks, config.decontaminate
        yield from _unknown("clean.contamination.benchmarks", named, known, "decontaminate")
    yield from _unknown(
        "contamination.corpora", config.contamination.corpora, config.corpora, "corpora"
    )
    stages: dict[str, FinetuneConfig | None] = {"sft": config.sft, "dpo": config.dpo}
    for key, stage in stages.items():
        if stage is not None:
            named = stage.contamination.benchmarks
            yield from _unknown(
                f"{key}.contamination.benchmarks", named, config.screened, "benchmarks"
            )


def cautions(config: "PipelineConfig") -> list[str]:
    """Settings that are allowed, and may be regretted after a month."""
    if not config.pretrains or config.decontaminate is None:
        return []
    kept = [name for name in config.benchmarks if name not in config.removed]
    if not kept:
        return []
    return [
        f"{', '.join(kept)} {'is' if len(kept) == 1 else 'are'} evaluated and not in "
        "`decontaminate`: questions of the benchmark stay in the corpora, and its scores may count "
        "what was learned by heart. The stage `contamination` lists which of them are there"
    ]


def _unknown(
    place: str, names: Collection[str], there: Mapping[str, object], key: str
) -> Iterator[ConfigError]:
    for name in names:
        if name not in there:
            near = did_you_mean(name, there)
            yield ConfigError(f"{place}: {shown(name)} is none of `{key}`{near}")
