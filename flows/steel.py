"""The flow `steel`: one function per deployment, each with its own form in the Prefect UI.

Every function names a target of the graph (flows/graph.py); the stages that it needs run first, or
are skipped if they are finished in the store. prefect.yaml makes each function a deployment
(`steel/pretrain`, …).

Importing this module costs little more than Prefect: every run, deployment and cancellation does
it. What a function needs it imports itself, after a look at the configuration's file.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow

from flows.forms import fields
from flows.forms.fields import SMOKE, STORE
from flows.forms.publish import published
from flows.runs.first_look import given, read_first
from flows.runs.names import run_name
from flows.runs.prefect_run import remembered
from flows.targets import Target


def _make(
    stages: Sequence[Target],
    config: str,
    store: str,
    overrides: list[str],
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    read_first(config, overrides)
    from flows.runs.session import session

    with session(config, store, overrides, changes) as run:
        for stage in stages or [run.last]:
            run.make(stage)
        return run.summary()


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def pipeline(
    config: fields.Config = SMOKE,
    stages: fields.Stages = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006 - Prefect copies defaults into the form
) -> dict[str, Any]:
    """The whole pipeline, from raw corpora to the report, or only `stages` and their inputs."""
    return _make(stages or [], config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def data(
    config: fields.Config = SMOKE,
    fraction: fields.Fraction = None,
    limit: fields.Limit = None,
    recipes: fields.CleaningSet = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Acquire, normalize, clean and pack the corpora. Fields left empty keep the configuration's
    values."""
    changes = {"sample.fraction": fraction, "sample.limit": limit, "clean.recipes": recipes}
    return _make(["data"], config, store, overrides, changes)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def pretrain(
    config: fields.Config = SMOKE,
    steps: fields.Steps = None,
    learning_rate: fields.PretrainRate = None,
    routing: fields.OneRouting = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Pretrain on the packed corpus. Fields left empty keep the configuration's values."""
    changes = {
        "pretrain.steps": steps,
        "pretrain.learning_rate": learning_rate,
        "pretrain.model.routing": routing,
    }
    return _make(["pretrain"], config, store, overrides, changes)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def sft(
    config: fields.Config = SMOKE,
    mixture: fields.Mixture = None,
    epochs: fields.SftEpochs = None,
    learning_rate: fields.SftRate = None,
    base_model: fields.BaseModel = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Supervised fine-tuning of the pretrained model, or of one in a folder."""
    changes = {
        "sft.base_model": base_model,
        "sft.epochs": epochs,
        "sft.learning_rate": learning_rate,
        "mixtures": [mixture] if mixture else None,
        "dpo_policy": mixture,
    }
    return _make(["sft"], config, store, overrides, changes)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def mixture_ablation(
    config: fields.Config = SMOKE,
    mixtures: fields.Mixtures = None,
    seeds: fields.Seeds = [],  # noqa: B006
    parallel: fields.Parallel = 1,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Table 3: SFT models of several mixtures, all from the same base, compared question by
    question."""
    read_first(config, overrides)
    from flows.ablations.mixtures import compare_mixtures

    return compare_mixtures(mixtures, seeds, parallel, config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def dpo(
    config: fields.Config = SMOKE,
    beta: fields.Beta = None,
    learning_rate: fields.DpoRate = None,
    policy_model: fields.PolicyModel = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Direct preference optimisation of one SFT model, or of one in a folder."""
    changes = {
        "dpo.beta": beta,
        "dpo.learning_rate": learning_rate,
        "dpo.policy_model": policy_model,
    }
    if policy_model:  # in the place of the configured mixture's
        overrides = [*given(overrides), "dpo_policy=null"]
    return _make(["dpo"], config, store, overrides, changes)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def evaluate(
    config: fields.Config = SMOKE,
    model: fields.Model = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """C-Eval, CMMLU and MMLU for every model of the configuration, or for one in a folder alone."""
    if not model:
        return _make(["evaluate"], config, store, overrides)
    read_first(config, overrides)
    from common.paths import resolve
    from flows.commands.find_model import find_model
    from flows.runs.session import session

    if not resolve(model).exists():
        model = str(find_model(resolve(store), model).place)
    name = "given"
    changes = {"evaluate.models": {name: model}}
    with session(config, store, overrides, changes) as run:
        given_model = run.pipeline.given(model)
        scores = run.pipeline.score(name, given_model)
        run.pipeline.adjust(name, given_model, scores)
        # What the summary shows: nothing else of this configuration is asked for.
        vars(run.pipeline).update(evaluations={name: scores})
        return run.summary()


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def evaluate_checkpoints(
    config: fields.Config = SMOKE,
    run: fields.Pretraining = None,
    benchmarks: fields.Benchmarks = None,
    watch: fields.Watch = False,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Bits per byte and benchmarks of each checkpoint of a pretraining, while it runs or
    afterwards: curves by tokens."""
    if benchmarks:
        overrides = [*given(overrides), f"checkpoint_scores.benchmarks={json.dumps(benchmarks)}"]
    read_first(config, overrides)
    from flows.checkpoint_curves import evaluate_checkpoints as evaluated

    return evaluated(run, watch, config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def refresh(
    config: fields.Config = SMOKE,
    run: fields.Pretraining = None,
    length: fields.LengthWithMore = "keep",
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Append new texts of the corpora, cleaned and packed, to a running or stopped pretraining."""
    read_first(config, overrides)
    from flows.schedules.refresh import refresh as refreshed

    return refreshed(run, length, config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def report(
    config: fields.Config = SMOKE,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """Tables 3 and 4 beside the paper's, curves, provenance."""
    return _make(["report"], config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def ffn_ablation(
    config: fields.Config = SMOKE,
    routings: fields.Routings = ["token", "uniform", "dense"],  # noqa: B006
    seeds: fields.RoutingSeeds = [1, 2, 3],  # noqa: B006
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """The same pretraining with each Soft MoE routing, with even weights and with a dense FFN;
    several seeds, held-out losses with intervals."""
    read_first(config, overrides)
    from flows.ablations.pretrainings import compare_routings

    return compare_routings(routings, seeds, config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def data_ablation(
    config: fields.Config = "deployments/data-ablation.yaml",
    recipes: fields.CleaningSets = ["paper", "repaired", "curated"],  # noqa: B006
    seeds: fields.CorpusSeeds = [1, 2, 3],  # noqa: B006
    steps: fields.CorpusSteps = None,
    store: fields.Store = STORE,
    overrides: fields.Overrides = [],  # noqa: B006
) -> dict[str, Any]:
    """The same small model on the same number of tokens of corpora that were cleaned in different
    ways, scored in bits per byte on texts that none was trained on."""
    read_first(config, overrides)
    from flows.ablations.corpora import compare_corpora

    return compare_corpora(recipes, seeds, steps, config, store, overrides)


@flow(name="steel", flow_run_name=run_name)
@remembered
@published
def kernel_ablation(
    experiments: fields.Experiments = None,
    num_processes: fields.NumProcesses = None,
    timed_steps: fields.TimedSteps = 10,
    store: fields.Store = STORE,
) -> dict[str, Any]:
    """Table 2: throughput and memory with each choice of kernels, and with ours. Needs no corpus;
    without a GPU a tiny model is measured, and the table says so."""
    from flows.ablations.variants import kernel_variants

    return kernel_variants(experiments, num_processes, timed_steps, store)
