"""SFT models of several mixtures, all from one base, compared question by question (Table 3).

base ──▶ sft[mixture, seed] ──▶ evaluate ──▶ mixture_comparison      (steel/mixture-ablation)
         └─── one process each, `parallel` at once ───┘
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.config import raise_all
from common.errors import ConfigError, StageError, SteelError, first_line
from common.files import hash_of, make_folder, write_json
from common.paths import display, resolve
from common.reading.files import read_json_object
from common.redaction import hidden_in_errors
from corpus.chats import load_mixture
from flows.ablations.comparison import compared, each_once
from flows.ablations.one_mixture import MixtureJob, Upstream, model_of, score_name
from flows.ablations.parallel import gpu_shares, run_all, share_size
from flows.config import PipelineConfig
from flows.graph import Pipeline
from flows.preflight import preflight
from flows.runs.first_look import given
from tasks.core.artifacts import flow_run_id, run_logger, shorten_user_errors
from tasks.core.plan import Plan, no_tracker
from tasks.core.stage import Context, NotMadeError, StageResult, plain
from tasks.mixture_comparison import KEY, MixtureComparisonConfig, mixture_comparison
from tasks.mixture_comparison.table import BASE, shown_rows

NAME = KEY
IN_CHILDREN = frozenset({"sft", "evaluate"})
"""Stages that are made by the children alone."""


class FailedModelsError(StageError):
    """Some models of a comparison could not be made; the table has the others."""

    def __init__(self, message: str, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary or {}


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the comparison."""

    mixture: str
    """Recipe in data_recipes/mixtures; empty for the base itself."""
    seed: int
    label: str
    """Name of its runs."""
    config: PipelineConfig
    """The configuration of this model alone."""

    @property
    def key(self) -> str:
        """Name among the inputs of the table."""
        return f"{self.mixture}/{self.seed}" if self.mixture else BASE


@dataclass(kw_only=True)
class State:
    """Results of one model as far as they are finished, and all before it."""

    upstream: Upstream
    trained: StageResult | None = None
    evaluated: StageResult | None = None


def load(
    config: str,
    store: Path,
    overrides: Sequence[str],
    mixtures: Sequence[str] | None,
    seeds: Sequence[int],
    parallel: int,
) -> PipelineConfig:
    """Load and check the configuration of a comparison, before any work.

    mixtures: None for those of the configuration.

    Raises ConfigError or DataError for what cannot be compared.
    """
    changes = ["dpo=null", "dpo_policy=null"]
    each_once(NAME, "seeds", seeds, least=0)
    if mixtures is not None:
        each_once(NAME, "mixtures", mixtures)
        changes.append(f"mixtures={json.dumps(list(mixtures))}")
    with hidden_in_errors():
        loaded = preflight(config, [*given(list(overrides)), *changes], store)
    found: list[SteelError] = []
    if not loaded.mixtures:
        found.append(ConfigError(f"{NAME} compares mixtures: give `mixtures`, or --mixtures"))
    if BASE in loaded.mixtures:
        found.append(ConfigError(f"a mixture named {BASE} would be taken for the base: rename it"))
    if not loaded.benchmarks:
        found.append(ConfigError(f"{NAME} compares answers to questions: give `benchmarks`"))
    raise_all(found, display(resolve(config)))
    gpu_shares(parallel)
    _check_ranks(loaded, parallel)
    return loaded


def _check_ranks(config: PipelineConfig, parallel: int) -> None:
    """Refuse more ranks than a model's share of the GPUs has. Raises ConfigError."""
    size = share_size(parallel)
    for section, stage in (("sft", config.sft), ("evaluate", config.evaluate)):
        ranks = getattr(stage, "num_processes", "auto")
        if parallel > 1 and size and isinstance(ranks, int) and ranks > size:
            raise ConfigError(
                f"{section}.num_processes = {ranks}, but with parallel = {parallel} each model has "
                f"{size} GPU(s): set {section}.num_processes: auto, or a smaller `parallel`"
            )


def models_of(config: PipelineConfig, seeds: Sequence[int]) -> list[Model]:
    """Every model of the comparison: the base, and each mixture with each seed, seed by seed, so
    that a comparison that is stopped early has one of each mixture."""
    assert config.sft is not None, "the configuration's check refuses mixtures without `sft`"
    chosen = list(seeds) or [config.sft.seed]
    base = replace(config, mixtures=[])
    found = [Model(mixture="", seed=chosen[0], label=BASE, config=base)]
    for seed in chosen:
        for mixture in config.mixtures:
            own = replace(config, mixtures=[mixture], sft=replace(config.sft, seed=seed))
            label = f"{mixture} seed {seed}" if len(chosen) > 1 else mixture
            found.append(Model(mixture=mixture, seed=seed, label=label, config=own))
    return found


def look_up(model: Model, context: Context, upstream: Upstream) -> State:
    """Find what is finished of a model; stages that `context` may make are made."""
    pipeline = upstream.pipeline(model.config, context)
    trained = evaluated = None
    with suppress(NotMadeError):
        trained = model_of(pipeline, model.mixture, model.label)
        evaluated = pipeline.score(score_name(model.mixture, model.label), trained)
    return State(upstream=Upstream.of(pipeline), trained=trained, evaluated=evaluated)


def plan_mixtures(
    mixtures: Sequence[str] | None,
    seeds: Sequence[int],
    parallel: int,
    config: str,
    store: str,
    overrides: Sequence[str],
) -> list[dict[str, str]]:
    """List every model with the state of its training and evaluation; nothing is made, nothing
    recorded.

    Raises like `load`.
    """
    place = resolve(store)
    loaded = load(config, place, overrides, mixtures, seeds, parallel)
    rows = []
    for model in models_of(loaded, seeds):
        plan = Plan()
        pipeline = Pipeline(model.config, Context(store=place, tracker=no_tracker(), plan=plan))
        made = model_of(pipeline, model.mixture, model.label)
        assert model.config.sft is not None
        given_base = model.config.sft.base_model and not model.mixture
        training = "given" if given_base else plan.stages[-1].state
        pipeline.score(score_name(model.mixture, model.label), made)
        rows.append(
            {
                "model": model.label,
                "seed": str(model.seed) if model.mixture else "",
                "training": training,
                "evaluation": plan.stages[-1].state,
                "key": made.key,
            }
        )
    return rows


def compare_mixtures(
    mixtures: Sequence[str] | None,
    seeds: Sequence[int],
    parallel: int,
    config: str,
    store: str,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """Train a model of each mixture with each seed, evaluate all, and make the table.

    Args:
        mixtures: recipes in data_recipes/mixtures; None: those of the configuration.
        seeds: of the fine-tuning, a model for each; none: the configured one.
        parallel: models that are trained at once.

    Raises:
        ConfigError, DataError: before any work, for what cannot be compared.
        FailedModelsError: after the table was made of the others, when a model failed.
        SteelError: the first model's, when none could be evaluated.
    """
    shorten_user_errors()
    place = resolve(store)
    loaded = load(config, place, overrides, mixtures, seeds, parallel)
    models = models_of(loaded, seeds)
    asked = {"file": config, "seeds": seeds, "parallel": parallel}
    with compared(NAME, loaded, place, asked) as context:
        states, failed = _make(models, parallel, context)
        evaluated = {m.key: s.evaluated for m in models if (s := states[m.key]).evaluated}
        if not any(model.mixture and model.key in evaluated for model in models):
            raise next(iter(failed.values()))
        table = mixture_comparison(
            MixtureComparisonConfig(
                mixtures=loaded.mixtures,
                titles={name: load_mixture(name).title for name in loaded.mixtures},
                seeds=list(dict.fromkeys(m.seed for m in models if m.mixture)),
                failed={key: first_line(error) for key, error in failed.items()},
            ),
            context=context,
            label=loaded.name,
            evaluations=evaluated,
            trained={
                m.key: s.trained for m in models if m.mixture and (s := states[m.key]).trained
            },
        )
        rows = shown_rows(read_json_object(table.folder / "table.json"))
        context.tracker.table(f"{NAME}.json", rows)
        for path in sorted(table.folder.iterdir()):
            if path.suffix in (".png", ".md", ".csv"):
                context.tracker.show(path)
        summary = {
            "name": NAME,
            "configuration": loaded.name,
            "store": str(context.store),
            "folder": str(table.folder),
            "views": context.tracker.models.views,
            "findings": table.manifest["notes"]["findings"],
            "failed": {key: first_line(error) for key, error in failed.items()},
        }
        if failed:
            listed = "".join(f"\n  {key}: {why}" for key, why in summary["failed"].items())
            raise FailedModelsError(
                f"{len(failed)} of {len(models)} models failed; the table has the others "
                f"({display(table.folder)}/table.md). The same command tries them again:{listed}",
                summary,
            )
        return summary


def _make(
    models: Sequence[Model], parallel: int, context: Context
) -> tuple[dict[str, State], dict[str, SteelError]]:
    """Make what is missing of every model; returns their states, and the errors of those that
    failed."""
    only_upstream = replace(context, not_made=IN_CHILDREN)
    first = Pipeline(models[-1].config, only_upstream)
    first.prepare("evaluate")
    log, start = run_logger(), first.start  # once, with all before it
    log.info("%s: every model starts from %s", NAME, display(start.model_folder))
    states = {model.key: look_up(model, only_upstream, Upstream.of(first)) for model in models}
    missing = [model for model in models if states[model.key].evaluated is None]
    make_folder(context.store / NAME)
    jobs = {model.label: job_file(model, context.store) for model in missing}
    if missing:
        context.tracker.opened()  # the children's runs stand below it
    for model in missing:
        write_json(jobs[model.label], asdict(_job(model, states[model.key].upstream, context)))
    shares = gpu_shares(parallel)
    errors = run_all("flows.ablations.one_mixture", jobs, shares, log, NAME, context.when_busy)
    for model in missing:
        if model.label not in errors:
            found = look_up(model, only_upstream, Upstream.of(first))
            states[model.key] = found
            if found.evaluated is None:
                told = display(jobs[model.label].with_suffix(".log"))
                errors[model.label] = StageError(
                    f"{model.label}: its process has ended, and its results are not in the store. "
                    f"Was a recipe changed meanwhile? (log {told})"
                )
    return states, {model.key: errors[model.label] for model in missing if model.label in errors}


def job_file(model: Model, store: Path) -> Path:
    """Job of a model's process, its log beside it. Comparisons of one store that differ in anything
    have different ones: a job may wait for hours until it is begun."""
    own = hash_of(plain(model.config))[:8]
    return store / NAME / f"{model.label} {own}.json"


def _job(model: Model, upstream: Upstream, context: Context) -> MixtureJob:
    return MixtureJob(
        label=model.label,
        mixture=model.mixture,
        config=plain(model.config),
        stages={name: str(result.folder) for name, result in upstream.stages.items()},
        data_sets=[[*place, str(made.folder)] for place, made in upstream.data_sets.items()],
        store=str(context.store),
        pipeline_id=context.tracker.pipeline_id,
        flow_run_id=flow_run_id(),
        parent_run=context.tracker.run_id,
    )
