"""The same small model, trained on the same number of tokens, from corpora that were cleaned in
different ways: which one predicts held-out texts best? (steel/data-ablation)

    hold_out ──▶ clean[paper, repaired, curated] ──one vocabulary──▶ pack ──▶ pretrain[seeds]
        └── held-out texts ─────────────────────────────────────────────────▶ bits per byte
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.config import problems, raise_all
from common.errors import ConfigError, SteelError, first_line
from common.paths import resolve
from common.redaction import hidden_in_errors
from flows.ablations.comparison import compared, each_once
from flows.config import PipelineConfig
from flows.graph import Pipeline
from flows.preflight import preflight
from flows.runs.first_look import given
from tasks.clean import CleanConfig
from tasks.core.artifacts import run_logger, shorten_user_errors
from tasks.core.stage import StageResult
from tasks.data_comparison import DataComparisonConfig, data_comparison

NAME = "data-ablation"


def compare_corpora(
    recipes: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    config: str,
    store: str,
    overrides: list[str],
) -> dict[str, Any]:
    """Clean with each set of recipes, train with each seed, and make the table.

    A set that cannot be cleaned with is listed with the reason; the others go on.

    Raises:
        ConfigError, DataError: before any work, for a wrong configuration, set or seed.
        SteelError: the first set's, when none could be cleaned with.
    """
    shorten_user_errors()
    place = resolve(store)
    with hidden_in_errors():
        loaded = preflight(config, given(overrides), place)
        configs = variants(loaded, recipes, seeds, steps)
    asked = {"file": config, "recipes": recipes, "seeds": seeds}
    with compared(NAME, loaded, place, asked) as context:
        pipelines = {name: Pipeline(one, context) for name, one in configs.items()}
        held_out = next(iter(pipelines.values())).held_out
        for pipeline in pipelines.values():
            vars(pipeline).update(held_out=held_out)
        cleaned, failed = _cleaned(pipelines)
        measured, models, packed = {}, {}, {}
        for name, result in cleaned.items():
            others = {f"{n}-texts": other for n, other in cleaned.items() if n != name}
            variant = Pipeline(configs[name], context, vocabulary=others)
            # What the variants share is made, and looked up, once.
            vars(variant).update(held_out=held_out, cleaned=result)
            packed[name] = variant.packed
            for seed in seeds:
                run = f"{name}/{seed}"
                models[run], measured[run] = _train(variant, name, seed)
        table = data_comparison(
            DataComparisonConfig(failed=failed),
            context=context,
            label=loaded.name,
            measured=measured,
            models=models,
            packed=packed,
            cleaned=cleaned,
        )
        return {
            "name": NAME,
            "store": str(context.store),
            "folder": str(table.folder),
            "results": table.manifest["notes"]["rows"],
        }


def variants(
    config: PipelineConfig, recipes: Sequence[str], seeds: Sequence[int], steps: int | None
) -> dict[str, PipelineConfig]:
    """The configuration with each set of cleaning recipes, and with a fixed number of steps.

    Raises ConfigError for what cannot be compared.
    """
    if not config.held_out:
        raise ConfigError(
            f"{NAME} needs texts to score models on: give `held_out` (deployments/{NAME}.yaml)"
        )
    each_once(NAME, "sets of recipes", recipes)
    each_once(NAME, "seeds", seeds)
    if config.pretrain is None:
        raise ConfigError(f"{NAME} trains models: give `pretrain`")
    pretrain = config.pretrain if steps is None else replace(config.pretrain, steps=steps)
    if not pretrain.steps:
        raise ConfigError(
            f"{NAME}: every model must see as many tokens as the others: set pretrain.steps"
        )
    found = {}
    for name in recipes:
        clean: CleanConfig = replace(config.clean, recipes=name, family_recipes={})
        raise_all([*problems(clean, "clean")], f"{NAME}, recipes {name}")
        found[name] = replace(config, clean=clean, pretrain=pretrain)
    return found


def _cleaned(pipelines: Mapping[str, Pipeline]) -> tuple[dict[str, StageResult], dict[str, str]]:
    """The corpus that each set of recipes gives, and the reasons of those that give none."""
    found, failed = {}, {}
    errors: list[SteelError] = []
    for name, pipeline in pipelines.items():
        try:
            found[name] = pipeline.cleaned
        except SteelError as error:
            run_logger().warning("%s: recipes %s: %s", NAME, name, error)
            errors.append(error)
            failed[name] = first_line(error)
    if not found:
        raise errors[0]
    return found, failed


def _train(variant: Pipeline, name: str, seed: int) -> tuple[StageResult, StageResult]:
    """The model of one set of recipes and one seed, and its bits per byte."""
    assert variant.config.pretrain is not None, "`variants` refuses such a configuration"
    config = replace(
        variant.config,
        name=f"{variant.config.name}-{name}-seed-{seed}",
        pretrain=replace(variant.config.pretrain, seed=seed),
    )
    pipeline = Pipeline(config, variant.context)
    vars(pipeline).update(held_out=variant.held_out, packed=variant.packed)
    return pipeline.base, pipeline.bits_per_byte
