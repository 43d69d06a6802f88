"""The same pretraining with each of several routings and seeds, in one table (steel/ffn-ablation).

packed ──▶ pretrain[routing/seed] ──held-out losses──▶ ffn_comparison
"""

from collections.abc import Sequence
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
from model.architecture import Routing
from tasks.core.artifacts import run_logger, shorten_user_errors
from tasks.core.stage import StageResult
from tasks.ffn_comparison import KEY, FfnComparisonConfig, ffn_comparison

NAME = KEY
LAST_ONLY = 10**9
"""Steps between validations where there is to be one at the end alone."""
BASELINE: Routing = "token"
"""Routing that the others are compared with, where it is among them; else the first."""


def compare_routings(
    routings: Sequence[Routing], seeds: Sequence[int], config: str, store: str, overrides: list[str]
) -> dict[str, Any]:
    """Pretrain with each routing and seed, on the same packed data, and make the table.

    What is finished is found in the store, what was interrupted goes on. A training that this
    machine or this version cannot make is listed with the reason; the others go on.

    Raises:
        ConfigError, DataError: before any work, for what cannot be compared.
        SteelError: the first training's, when none could be made.
    """
    shorten_user_errors()
    place = resolve(store)
    with hidden_in_errors():
        loaded = preflight(config, given(overrides), place)
        configs = variants(loaded, routings, seeds)
    asked = {"file": config, "routings": routings, "seeds": seeds}
    with compared(NAME, loaded, place, asked) as context:
        packed = Pipeline(loaded, context).packed
        models: dict[str, StageResult] = {}
        errors: dict[str, SteelError] = {}
        for name, one in configs.items():
            pipeline = Pipeline(one, context)
            vars(pipeline).update(packed=packed)
            try:
                models[name] = pipeline.base
            except SteelError as error:
                run_logger().warning("%s: %s: %s", NAME, name, error)
                errors[name] = error
        if not models:
            raise next(iter(errors.values()))
        table = ffn_comparison(
            FfnComparisonConfig(
                baseline=BASELINE if BASELINE in routings else routings[0],
                failed={name: first_line(error) for name, error in errors.items()},
            ),
            context=context,
            label=loaded.name,
            models=models,
        )
        return {
            "name": NAME,
            "store": str(context.store),
            "folder": str(table.folder),
            "results": table.manifest["notes"]["rows"],
        }


def variants(
    config: PipelineConfig, routings: Sequence[Routing], seeds: Sequence[int]
) -> dict[str, PipelineConfig]:
    """The configuration of each training by `<routing>/<seed>`, seed after seed, so that a
    comparison that is stopped early has one of each routing.

    Raises ConfigError for what cannot be compared.
    """
    each_once(NAME, "routings", routings)
    each_once(NAME, "seeds", seeds)
    pretrain = config.pretrain
    if pretrain is None:
        raise ConfigError(f"{NAME} trains models: give `pretrain`")
    if not isinstance(pretrain.model, dict):
        raise ConfigError(
            f"{NAME} starts from random weights, and pretrain.model = {pretrain.model!r} is a "
            "trained model: give the fields of a model's config instead"
        )
    fields: dict[str, Any] = pretrain.model
    if not config.pack.validation_fraction:
        raise ConfigError(
            f"{NAME} compares losses of held-out documents, and pack.validation_fraction = 0 holds "
            "none out: set it (0.02, say)"
        )
    # Where it validates on the way, a training without a block to validate with is refused before
    # its first step.
    pretrain = replace(pretrain, eval_interval=pretrain.eval_interval or LAST_ONLY)
    found = {}
    for seed in seeds:
        for routing in routings:
            name = f"{routing}/{seed}"
            own = replace(pretrain, model={**fields, "routing": routing}, seed=seed)
            raise_all([*problems(own, "pretrain")], f"{NAME}, {name}")
            label = f"{config.name}-{routing}-seed-{seed}"
            found[name] = replace(config, name=label, pretrain=own)
    return found
